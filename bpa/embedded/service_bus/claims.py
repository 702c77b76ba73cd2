"""What a connection may touch: the tokens it has put, by the resource each is for. Pure.

As in the official emulator no key is checked: this is a broker for one machine. What a client
could get wrong in earnest is refused as in the service: a token that is none, that has expired, or
that is for something else.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl

from .refusals import Unauthorized

_AUTHORITY = re.compile(r"^[a-z]+://[^/]*/?", re.IGNORECASE)
_SCHEME = "SharedAccessSignature "
_PARTS = {"sr", "sig", "se"}
_MOST_RESOURCES = 1000


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says."""

    resource: str | None
    """The path that it covers; None covers everything."""
    expires_s: float


def node_path(address: str | None) -> str:
    """Return the lower-case path of an address, with or without scheme and authority."""
    return _AUTHORITY.sub("", address or "").strip("/").lower()


def read_token(token: object, now_s: float) -> Token:
    """Read a shared access signature or a JSON web token.

    Raises:
        Unauthorized: It is neither, or has expired.
    """
    text = bytes(token).decode("utf-8", "replace") if isinstance(token, bytes) else token
    if not isinstance(text, str):
        raise Unauthorized("The token is no text.")
    found = _read_signature(text) if text.startswith(_SCHEME) else _read_web_token(text)
    if found.expires_s <= now_s:
        raise Unauthorized("ExpiredToken: the token has expired.")
    return found


def _read_signature(text: str) -> Token:
    parts = dict(parse_qsl(text[len(_SCHEME) :]))
    if not parts.keys() >= _PARTS:
        raise Unauthorized("The shared access signature lacks one of sr, sig and se.")
    if not (parts["se"].isascii() and parts["se"].isdigit()):
        raise Unauthorized("The expiry (se) of the signature is not a number of seconds.")
    return Token(node_path(parts["sr"]), float(parts["se"]))


def _read_web_token(text: str) -> Token:
    parts = text.split(".")
    try:
        claims = json.loads(urlsafe_b64decode(parts[1] + "=="))
        expires_s = float(claims["exp"])
    except (ValueError, LookupError, TypeError, RecursionError, OverflowError) as error:
        text = "The token is neither a shared access signature nor a JSON web token with an expiry."
        raise Unauthorized(text) from error
    return Token(None, expires_s)


class Claims:
    """The tokens of one connection.

    Args:
        changed: Called when one was added.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._expiries_s: dict[str, float] = {}
        self._trusted = False

    def trust(self) -> None:
        """Cover everything for as long as the connection is there."""
        self._trusted = True

    def put(self, audience: str, token: Token) -> None:
        """Cover an audience until the token expires; a later token for it takes its place.

        Raises:
            Unauthorized: The token is for something else.
        """
        path = node_path(audience)
        if token.resource is not None and not _within(path, token.resource):
            raise Unauthorized(f"The token is for '{token.resource}', not for '{path}'.")
        self._expiries_s.pop(path, None)
        self._expiries_s[path] = token.expires_s
        if len(self._expiries_s) > _MOST_RESOURCES:
            del self._expiries_s[next(iter(self._expiries_s))]
        self._changed()

    def cover(self, node: str, now_s: float) -> bool:
        """Whether a token covers a node or what it is part of."""
        return self._trusted or any(
            expires_s > now_s and _within(node, path)
            for path, expires_s in self._expiries_s.items()
        )

    def next_expiry_s(self, now_s: float) -> float | None:
        """Return when the next token expires."""
        return min((at_s for at_s in self._expiries_s.values() if at_s > now_s), default=None)


def _within(path: str, whole: str) -> bool:
    return not whole or path == whole or path.startswith(whole + "/")
