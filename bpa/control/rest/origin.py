"""Where a request comes from: another site may neither read through a browser nor act by it. Pure.

Nobody signs in yet, so that whatever reaches the socket is let in, and a browser on this machine
reaches it for any page. A name elsewhere can be pointed at our address (DNS rebinding), and then
counts as our own site: so a socket on loopback answers to loopback's names alone. A page elsewhere
can have its browser post to us without a name of ours: ``Sec-Fetch-Site``, which no page can set,
tells it, and ``Origin`` where a browser is too old for that. Scripts send neither, nor need to.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN = frozenset({"same-origin", "none"})
"""``none`` is what somebody typed: no page had a part in it."""


def foreign(
    method: str, server: str, host: str, fetch_site: str | None, origin: str | None
) -> str | None:
    """Return why a request is refused that another site has sent, or None.

    Args:
        method: Its method.
        server: The address that it came to.
        host: Its header ``Host``; empty where it has none, which no browser does.
        fetch_site: Its ``Sec-Fetch-Site``.
        origin: Its ``Origin``.
    """
    if host and _is_loopback(server) and not _is_loopback(_name_of(host)):
        return (
            "this address answers to localhost alone: nobody signs in here, and a foreign name "
            "for it may be another site's"
        )
    if method in _SAFE or is_same_origin(host, fetch_site, origin):
        return None
    if fetch_site in _OWN or (fetch_site is None and origin is None):
        return None
    return "this was sent by a page of another site, and changes nothing"


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
