"""The target's HTTP edge: posting invoices under a key, health, and the control endpoints."""

from __future__ import annotations

import asyncio
import hashlib
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import structlog
from aiohttp import web

from bpa.embedded.script import Script, decode_rules
from bpa.embedded.target.invoices import check_invoice, is_json_object
from bpa.embedded.target.journal import Journal
from bpa.embedded.target.keys import Applied, Book, Tries, digest_of, parse_key
from bpa.embedded.target.rules import Drop, TargetRule
from bpa.embedded.web import Listener, dropped, json_response
from bpa.errors import InvalidRequest

MAX_LIMIT = 1_000


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """How the target listens and what it keeps."""

    host: str = "127.0.0.1"
    """The address to bind."""
    port: int = 0
    """The port to bind; 0 picks any free one."""
    data_dir: Path | None = None
    """Where to keep what was applied; None keeps it in memory."""
    max_body_bytes: int = 256 * 1024
    """Larger bodies get 413."""
    finish_s: float = 10.0
    """How long a close waits for requests in flight, in seconds."""
    port_setting: str = "--port"
    """The setting that an error about the port names."""


class _Problem(Exception):
    """The request is answered with RFC 9457 problem details."""

    def __init__(
        self, status: int, code: str, detail: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers


class _Dropped(Exception):
    """The connection is to be cut without an answer."""


class TargetApi:
    """An invoice API: one POST under one key is applied once, however often it is sent.

    Use it as an async context manager, or call ``start`` and ``aclose``. Any path outside
    ``/_target/`` and ``/health`` takes invoices; keys are unique over all of them.
    """

    def __init__(self, options: TargetOptions | None = None) -> None:
        self._options = options or TargetOptions()
        self._book = Book()
        self._script: Script[TargetRule] = Script()
        self._journal: Journal | None = None
        self._log = structlog.get_logger("bpa.embedded.target")
        self._listener = Listener(
            self._handle,
            host=self._options.host,
            port=self._options.port,
            port_setting=self._options.port_setting,
            max_body_bytes=self._options.max_body_bytes,
            finish_s=self._options.finish_s,
        )

    @property
    def port(self) -> int:
        """The bound port."""
        return self._listener.port

    @property
    def url(self) -> str:
        """The base address, without a trailing slash."""
        return self._listener.url

    async def start(self) -> None:
        """Read what was applied earlier, bind and serve.

        Raises:
            StartupError: The port cannot be bound or the data directory not used.
        """
        if self._options.data_dir is not None:
            journal = Journal(self._options.data_dir)
            for applied in await asyncio.to_thread(journal.open):
                self._book.restore(applied)
            self._journal = journal
        try:
            await self._listener.start()
        except BaseException:
            await self.aclose()
            raise
        self._log.info("target_started", url=self.url, restored=self._book.applied_count)

    async def aclose(self) -> None:
        """Finish what is in flight and close."""
        await self._listener.aclose()
        journal, self._journal = self._journal, None
        if journal is not None:
            await journal.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        key: str | None = None
        try:
            if path == "/health":
                return json_response({"status": "healthy"})
            if path.startswith("/_target/"):
                return await self._control(request, path.removeprefix("/_target/"))
            if request.method != "POST":
                raise _Problem(405, "method_not_allowed", "invoices are posted")
            key = _key(request)
            return await self._post(key, path, await _body(request))
        except _Problem as problem:
            if not path.startswith("/_target/"):
                self._book.ended(key, f"{problem.code}:{problem.status}")
            return _answer(problem, path)
        except _Dropped:
            return dropped(request)

    async def _post(self, key: str, path: str, body: bytes) -> web.Response:
        digest = digest_of(body)
        self._book.tried(key, digest, _now())
        holder = self._book.begin(key, digest)
        if holder == digest:
            raise _Problem(409, "in_flight", "a request under this key is still in flight")
        if holder is not None:
            raise _Problem(422, "key_reused", "this key is in flight with another body")
        try:
            return await self._execute(key, path, body, digest)
        finally:
            self._book.end(key)

    async def _execute(self, key: str, path: str, body: bytes, digest: str) -> web.Response:
        rule = self._rule(key, body)
        if rule.latency_ms:
            await asyncio.sleep(rule.latency_ms / 1000)
        if rule.drop is Drop.BEFORE:
            self._book.ended(key, "dropped:before")
            raise _Dropped
        if rule.status is not None:
            headers = None
            if rule.retry_after_s is not None:
                headers = {"Retry-After": str(math.ceil(rule.retry_after_s))}
            raise _Problem(rule.status, "scripted", "told to fail by the script", headers)
        known = self._book.known(key)
        if known is not None and known.digest != digest:
            raise _Problem(422, "key_reused", "this key was used with another body")
        applied = known or await self._apply(key, path, body, digest)
        if rule.drop is Drop.AFTER:
            self._book.ended(key, "dropped:after")
            raise _Dropped
        self._book.ended(key, "replayed" if known else "applied")
        headers = {"Idempotent-Replayed": "true"} if known else None
        return json_response(applied.answer, 201, headers)

    def _rule(self, key: str, body: bytes) -> TargetRule:
        if not self._script.is_empty:
            fields = msgspec.json.decode(body) if is_json_object(body) else {}
            rule = self._script.choose(lambda rule: rule.match.fits(key, body, fields))
            if rule is not None:
                return rule
        return TargetRule()

    async def _apply(self, key: str, path: str, body: bytes, digest: str) -> Applied:
        if not is_json_object(body):
            raise _Problem(400, "malformed", "the body must be a JSON object")
        try:
            check_invoice(body)
        except InvalidRequest as error:
            raise _Problem(422, "invalid", str(error)) from error
        applied = Applied(
            key=key,
            path=path,
            body=body,
            digest=digest,
            answer={"id": f"inv_{hashlib.sha256(key.encode()).hexdigest()[:20]}", "accepted": True},
            at=_now(),
        )
        if self._journal is not None:
            try:
                await self._journal.append(applied)
            except OSError as error:
                self._log.error("target_journal_failed", error=str(error))
                raise _Problem(503, "storage", "the invoice could not be stored") from error
        self._book.apply(applied)
        return applied

    async def _control(self, request: web.BaseRequest, name: str) -> web.Response:
        match (request.method, name):
            case ("GET", "script"):
                return json_response(self._script.describe())
            case ("PUT", "script"):
                try:
                    self._script.replace(decode_rules(await _body(request), TargetRule))
                except InvalidRequest as error:
                    raise _Problem(400, "invalid", str(error)) from error
                return json_response(self._script.describe())
            case ("DELETE", "script"):
                self._script.replace([])
                return json_response(self._script.describe())
            case ("GET", "received"):
                return self._received(request)
            case ("GET", "tries"):
                return self._tries(request)
            case ("GET", "stats"):
                return json_response(self._stats())
            case ("DELETE", "received"):
                if self._journal is not None:
                    await self._journal.clear()
                self._book.clear()
                return json_response(self._stats())
        raise _Problem(404, "not_found", "no such control endpoint")

    def _received(self, request: web.BaseRequest) -> web.Response:
        after, limit = _page(request)
        page = self._book.received(after, limit)
        items = [
            {**_received(item, after + index + 1), **_tries(self._book.tries(item.key))}
            for index, item in enumerate(page)
        ]
        return _paged(items, after, self._book.applied_count)

    def _tries(self, request: web.BaseRequest) -> web.Response:
        key = request.query.get("key")
        if key is not None:
            found = self._book.tries(key)
            items = [] if found is None else [(key, found)]
            after, total = 0, len(items)
        else:
            after, limit = _page(request)
            items, total = self._book.keys(after, limit), self._book.key_count
        return _paged(
            [
                {"key": key, "applied": self._book.known(key) is not None, **_tries(tries)}
                for key, tries in items
            ],
            after,
            total,
        )

    def _stats(self) -> dict[str, Any]:
        ended: dict[str, dict[str, int]] = {"rejected": {}, "failed": {}, "dropped": {}}
        totals = self._book.totals()
        for outcome, count in totals.items():
            code, _, detail = outcome.partition(":")
            if code in ("applied", "replayed"):
                continue
            place = {"scripted": "failed", "dropped": "dropped"}.get(code, "rejected")
            ended[place][detail] = ended[place].get(detail, 0) + count
        return {
            "applied": self._book.applied_count,
            "replayed": totals.get("replayed", 0),
            "keys": self._book.key_count,
            "tries": self._book.try_count,
            **ended,
        }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _key(request: web.BaseRequest) -> str:
    try:
        return parse_key(request.headers.get("Idempotency-Key"))
    except InvalidRequest as error:
        raise _Problem(400, "idempotency_key", str(error)) from error


async def _body(request: web.BaseRequest) -> bytes:
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise _Problem(413, "too_large", "the body is too large") from error


def _page(request: web.BaseRequest) -> tuple[int, int]:
    try:
        after, limit = int(request.query.get("cursor", 0)), int(request.query.get("limit", 100))
    except ValueError as error:
        raise _Problem(400, "invalid", "cursor and limit must be integers") from error
    if after < 0 or not 1 <= limit <= MAX_LIMIT:
        raise _Problem(400, "invalid", f"cursor must be >= 0, limit 1 to {MAX_LIMIT}")
    return after, limit


def _paged(items: list[dict[str, Any]], after: int, total: int) -> web.Response:
    end = after + len(items)
    return json_response(
        {"items": items, "next_cursor": str(end) if end < total else None, "total": total}
    )


def _received(item: Applied, sequence: int) -> dict[str, Any]:
    return {
        "sequence": sequence,
        "key": item.key,
        "path": item.path,
        "body": msgspec.json.decode(item.body),
        "digest": item.digest,
        "answer": item.answer,
        "applied_at": item.at,
    }


def _tries(tries: Tries | None) -> dict[str, Any]:
    if tries is None:
        return {}
    return {
        "tries": tries.count,
        "outcomes": dict(tries.by_outcome),
        "bodies": len(tries.bodies),
        "first_at": tries.first_at,
        "last_at": tries.last_at,
    }


def _answer(problem: _Problem, path: str) -> web.Response:
    response = json_response(
        {
            "type": "about:blank",
            "title": problem.code,
            "status": problem.status,
            "detail": problem.detail,
            "instance": path,
            "code": problem.code,
        },
        problem.status,
        problem.headers,
    )
    response.content_type = "application/problem+json"
    return response
