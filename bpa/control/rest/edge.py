"""What stands before the router: it refuses what no handler should see, and rewrites verbs."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, HTTPReceiveMessage, HTTPScope, Receive, Scope, Send

from bpa.control.rest.origin import foreign
from bpa.control.rest.problems import MEDIA_TYPE, path_of, problem
from bpa.control.rest.schemas import Problem
from bpa.control.rest.verbs import routed
from bpa.errors import InvalidRequest, NotAllowed

PATH_BYTES_MAX = 4096
"""No path of ours is longer, whatever the names in it."""
BODY_S = 20.0
"""Seconds to wait for the next piece of a body."""
_ONCE = frozenset(
    (b"content-type", b"content-encoding", b"host", b"if-match", b"idempotency-key", b"origin")
)
"""Headers whose first and last value would mean different requests."""
_WHENCE = frozenset((b"host", b"origin", b"sec-fetch-site"))


class Edge:
    """Refuse what is no request of ours, and pass the others on.

    Args:
        app: The application.
        verbs: The verbs that its paths end in.
    """

    def __init__(self, app: ASGIApp, verbs: frozenset[str]) -> None:
        self._app = app
        self._verbs = verbs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on with the path as the router knows it."""
        if scope["type"] == ScopeType.HTTP:
            refused = _refusal(scope)
            if refused is not None:
                await _refuse(send, refused)
                return
            scope["path"] = routed(scope["path"], self._verbs)
            receive = _in_time(receive)
        await self._app(scope, receive, send)


def _in_time(receive: Receive) -> Receive:
    """Have a body come piece by piece and whole, or the request end there."""
    is_whole = False

    async def receive_body() -> HTTPReceiveMessage | Any:
        nonlocal is_whole
        if is_whole:
            return await receive()
        try:
            async with asyncio.timeout(BODY_S):
                message = await receive()
        except TimeoutError as error:
            detail = f"nothing of the body came for {BODY_S:g} s"
            raise HTTPException(detail, status_code=408) from error
        if message["type"] == "http.disconnect":
            raise HTTPException("the client left amid its body", status_code=400)
        is_whole = not message.get("more_body", False)
        return message

    return receive_body


def _refusal(scope: HTTPScope) -> Problem | None:
    instance = path_of(scope)
    if len(scope["raw_path"]) > PATH_BYTES_MAX:
        detail = f"a path has {PATH_BYTES_MAX} bytes at most"
        return problem(414, "request_uri_too_long", detail, instance[:64])
    if "\0" in scope["path"] or b"\0" in unquote_to_bytes(scope["query_string"]):
        detail = "neither a path nor a query holds a NUL character"
        return problem(400, InvalidRequest.code, detail, instance)
    counted = Counter(name for name, _ in scope["headers"] if name in _ONCE)
    for name, times in counted.items():
        if times > 1:
            detail = f"the header {name.decode()} comes {times} times; once is enough"
            return problem(400, InvalidRequest.code, detail, instance)
    said = {name: value.decode("latin-1") for name, value in scope["headers"] if name in _WHENCE}
    server = scope.get("server")
    why = foreign(
        scope["method"],
        server[0] if server else "",
        said.get(b"host", ""),
        said.get(b"sec-fetch-site"),
        said.get(b"origin"),
    )
    return problem(NotAllowed.http_status, NotAllowed.code, why, instance) if why else None


async def _refuse(send: Any, refused: Problem) -> None:
    body = msgspec.json.encode(refused)
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
