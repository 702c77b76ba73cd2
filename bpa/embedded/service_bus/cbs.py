"""Claims-based security: ``$cbs`` takes any well-formed shared access signature not yet expired.

As in the official emulator no key is checked: this is a broker for one machine. What a client
could get wrong in earnest (a token that is none, or that has expired) is refused as in the
service.
"""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import parse_qsl

import proton
import structlog

from . import conditions
from .log_events import SIGNATURE_REFUSED
from .requests import Reply

NODE = "$cbs"
_SCHEME = "SharedAccessSignature "
_PARTS = {"sr", "sig", "se"}
_log = structlog.get_logger(__name__)


def answer(request: proton.Message) -> Reply:
    """Answer a put-token."""
    properties: dict[str, Any] = dict(request.properties or {})
    if properties.get("operation") != "put-token":
        return _status(501, "Only put-token is served.", conditions.NOT_IMPLEMENTED)
    problem = token_problem(request.body, time.time())
    if problem is not None:
        _log.info(SIGNATURE_REFUSED, audience=str(properties.get("name"))[:200], reason=problem)
        return _status(401, problem, conditions.UNAUTHORIZED)
    return _status(200, "OK")


def token_problem(token: object, now_s: float) -> str | None:
    """Return what is wrong with a token, None if nothing is."""
    text = bytes(token).decode("utf-8", "replace") if isinstance(token, bytes) else token
    if not isinstance(text, str) or not text.startswith(_SCHEME):
        return "The token is not a shared access signature."
    parts = dict(parse_qsl(text[len(_SCHEME) :]))
    if not parts.keys() >= _PARTS:
        return "The shared access signature lacks one of sr, sig and se."
    if not parts["se"].isdigit():
        return "The expiry (se) of the shared access signature is not a number of seconds."
    if int(parts["se"]) <= now_s:
        return "The shared access signature has expired."
    return None


def _status(code: int, description: str, condition: str | None = None) -> Reply:
    properties: dict[str, object] = {
        "status-code": proton.int32(code),
        "status-description": description,
    }
    if condition is not None:
        properties["error-condition"] = proton.symbol(condition)
    return Reply(properties)
