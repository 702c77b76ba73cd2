"""Where a request comes from: another site may neither act through a browser nor read by a ruse.

A page elsewhere can have a browser post to us; ``Sec-Fetch-Site``, which no page can set, tells it
from our own, and ``Origin`` where a browser is too old for it. A name elsewhere can be pointed at
our address (DNS rebinding), and then counts as the same site: so a socket on loopback, where nobody
signs in, answers to loopback's names alone.
"""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import urlsplit

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from bpa.errors import NotAllowed

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


async def ours_alone(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Refuse what another site sends. A guard: a coroutine, as others run in a thread each time.

    Raises:
        NotAllowed: It does.
    """
    host = connection.headers.get("host", "")
    server = connection.scope.get("server")
    if server and _is_loopback(server[0]) and not _is_loopback(_name_of(host)):
        raise NotAllowed(
            "this address answers to localhost alone: nobody signs in here, and a foreign name "
            "for it may be another site's"
        )
    if connection.scope.get("method") in _SAFE:
        return
    if not is_same_origin(
        host, connection.headers.get("sec-fetch-site"), connection.headers.get("origin")
    ):
        raise NotAllowed("this was not sent by a page of ours; scripts use the API under /v1")


def is_same_origin(host: str, fetch_site: str | None, origin: str | None) -> bool:
    """Tell whether a page of ours sent a request, by its headers; without any, none did."""
    if fetch_site is not None:
        return fetch_site == "same-origin"
    return bool(origin) and urlsplit(origin or "").netloc == host


def _name_of(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
