"""Forms are taken from our own pages alone: what has no sign of one is no form of ours.

What other sites send is refused before any handler, pages and REST alike
(:mod:`bpa.control.rest.origin`).
"""

from __future__ import annotations

from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from bpa.control.rest.origin import is_same_origin
from bpa.errors import NotAllowed

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


async def ours_alone(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Refuse a form that no page of ours sent. A coroutine, as others run in a thread each time.

    Raises:
        NotAllowed: It is one.
    """
    if connection.scope.get("method") in _SAFE:
        return
    headers = connection.headers
    if not is_same_origin(
        headers.get("host", ""), headers.get("sec-fetch-site"), headers.get("origin")
    ):
        raise NotAllowed("this was not sent by a page of ours; scripts use the API under /v1")
