"""``/v1/runs/{id}:complete`` at the edge: the router takes no ``{id}:verb`` segment.

The path is rewritten to ``/v1/runs/{id}/:complete`` before routing; the OpenAPI document shows it
as it is written in the architecture document. A colon that leads no verb of ours stays as it is:
ids may hold one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from bpa.control.rest.problems import MEDIA_TYPE, path_of, problem
from bpa.control.rest.schemas import Problem
from bpa.errors import InvalidRequest

_VERB = re.compile(r"/:([a-z]+)$")
_LAST = re.compile(r"^(.*[^/]):([a-z]+)$", re.DOTALL)


def verbs_of(paths: Iterable[str]) -> frozenset[str]:
    """Return the verbs that routed paths end in."""
    return frozenset(match[1] for path in paths if (match := _VERB.search(path)))


def routed(path: str, verbs: frozenset[str]) -> str:
    """Return the path as the router knows it."""
    match = _LAST.match(path)
    return f"{match[1]}/:{match[2]}" if match and match[2] in verbs else path


def documented(path: str) -> str:
    """Return the path as people write it."""
    return _VERB.sub(r":\1", path)


def resource_of(path: str) -> str:
    """Return a documented path without its verb."""
    return _LAST.sub(r"\1", path)


class Edge:
    """What stands before the router: refuses NUL in paths and queries, rewrites ``{id}:verb``.

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
            path = scope["path"]
            if "\0" in path or b"\0" in unquote_to_bytes(scope["query_string"]):
                detail = "neither a path nor a query holds a NUL character"
                refused = problem(400, InvalidRequest.code, detail, path_of(scope))
                await _refuse(send, refused)
                return
            scope["path"] = routed(path, self._verbs)
        await self._app(scope, receive, send)


async def _refuse(send: Any, refused: Problem) -> None:
    body = msgspec.json.encode(refused)
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
