"""The administration API: what ServiceBusAdministrationClient asks, over HTTP.

Any well-formed token that has not expired will do, as on ``$cbs``. Answers about
what a queue is and holds are true at the moment they are given; a change is answered when it is
durable.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from urllib.parse import quote

import structlog
from aiohttp import web

from . import atom
from .broker import Broker
from .claims import read_token
from .config import NAMESPACE, QueueConfig
from .descriptions import read_queue
from .entities import Entity
from .log_events import ADMINISTRATION_REFUSED, QUEUE_CREATED, QUEUE_DELETED, QUEUE_UPDATED
from .queue import DEAD_LETTER_SUFFIX
from .refusals import BadRequest, NotServed, Refused, quotable

_PAGE = 100
_LARGEST_PAGE = 1000
LARGEST_BODY_BYTES = 1024 * 1024

_log = structlog.get_logger(__name__)


class Administration:
    """Answers the requests for one namespace."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def answer(self, request: web.Request) -> web.Response:
        """Carry out a request, or say why not."""
        authorization = request.headers.get("Authorization", "")
        path = request.match_info["path"].strip("/")
        try:
            read_token(authorization.removeprefix("Bearer "), time.time())
            return await self._carry_out(request, path)
        except Refused as refusal:
            return _refuse(
                request, HTTPStatus(refusal.status), f"SubCode={refusal.status}00. {refusal}"
            )

    async def _carry_out(self, request: web.Request, path: str) -> web.Response:
        if path.lower().startswith("$resources/"):
            return self._list(request, path.split("/", 1)[1].lower())
        if path.lower() == "$namespaceinfo":
            tier, since_ms = self._broker.tier, self._broker.started_ms
            return _xml(atom.namespace_entry(NAMESPACE, tier, since_ms, _place(request)))
        if "/subscriptions" in path.lower():
            raise NotServed("Topics, subscriptions and rules are not served yet.")
        if request.method == "GET":
            return self._get(request, path)
        if request.method == "PUT":
            return await self._put(request, path)
        if request.method == "DELETE":
            await self._broker.delete(path)
            _log.info(QUEUE_DELETED, queue=path)
            return web.Response()
        return _refuse(request, HTTPStatus.METHOD_NOT_ALLOWED, "Use GET, PUT or DELETE.")

    def _get(self, request: web.Request, path: str) -> web.Response:
        entity = self._broker.entities.get(path.lower())
        if entity is None:
            return _xml(atom.empty_feed("Publicly Listed Services", str(request.url)))
        return _xml(atom.queue_entry(entity, self._runtime(entity), _place(request)))

    async def _put(self, request: web.Request, path: str) -> web.Response:
        updating = request.headers.get("If-Match") == "*"
        if updating:
            known = self._broker.entity(path).config
        else:
            known = QueueConfig(path, max_delivery_count=10)
        wanted = read_queue(await request.read(), known, self._broker.tier, exists=updating)
        if updating:
            entity = await self._broker.update(wanted)
            _log.info(QUEUE_UPDATED, queue=path)
        else:
            entity = await self._broker.create(wanted)
            _log.info(QUEUE_CREATED, queue=path)
        described = atom.queue_entry(entity, self._runtime(entity), _place(request))
        return _xml(described, HTTPStatus.OK if updating else HTTPStatus.CREATED)

    def _list(self, request: web.Request, kind: str) -> web.Response:
        if kind == "topics":
            return _xml(atom.empty_feed("Topics", str(request.url)))
        if kind != "queues":
            raise NotServed(f"Listing {quotable(kind)!r} is not served; there are queues alone.")
        skip = _number(request, "$skip", 0)
        top = min(_number(request, "$top", _PAGE), _LARGEST_PAGE)
        names = sorted(self._broker.entities)
        page = [self._broker.entities[name] for name in names[skip : skip + top]]
        place = _place(request)
        following = None
        if skip + top < len(names) and page:
            following = place.of("$Resources/queues", f"%24skip={skip + top}", f"%24top={top}")
        described = [(entity, self._runtime(entity)) for entity in page]
        return _xml(atom.queue_feed(described, place, str(request.url), following))

    def _runtime(self, entity: Entity) -> atom.Runtime:
        path, tier = entity.config.name.lower(), self._broker.tier
        queue = self._broker.queues[path]
        dead = self._broker.queues[path + DEAD_LETTER_SUFFIX]
        counts, letters = queue.counts(), dead.counts()
        return atom.Runtime(
            active=counts.active + counts.locked + counts.deferred,
            dead_lettered=letters.active + letters.locked + letters.deferred,
            scheduled=counts.scheduled,
            size_bytes=queue.size_bytes + dead.size_bytes,
            accessed_ms=queue.accessed_ms,
            max_message_kb=tier.queue_message_kb(entity.config) if tier.settable else None,
        )


def _place(request: web.Request) -> atom.Place:
    version = request.query.get("api-version", "")
    query = f"api-version={quote(version)}" if version else ""
    return atom.Place(f"{request.scheme}://{request.host}", query)


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadRequest(f"{name} must be a whole number.")
    return int(text)


def _xml(text: str, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    kind = "feed" if "<feed" in text[:80] else "entry"
    return web.Response(
        body=text.encode(),
        status=status,
        headers={"Content-Type": f"application/atom+xml;type={kind};charset=utf-8"},
    )


def _refuse(request: web.Request, status: HTTPStatus, detail: str) -> web.Response:
    _log.info(
        ADMINISTRATION_REFUSED,
        method=request.method,
        path=request.path,
        status=int(status),
        reason=detail,
    )
    return web.Response(
        body=atom.error(int(status), detail).encode(),
        status=status,
        headers={"Content-Type": "application/xml; charset=utf-8"},
    )
