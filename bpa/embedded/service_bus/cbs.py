"""Claims-based security: ``$cbs`` takes tokens and keeps them as the connection's claims."""

from __future__ import annotations

import time
from typing import Any

import proton
import structlog

from .claims import Claims, read_token
from .log_events import SIGNATURE_REFUSED
from .refusals import BadRequest, NotServed, Refused, quotable
from .requests import Reply

NODE = "$cbs"
_TYPES = ("servicebus.windows.net:sastoken", "jwt")
_log = structlog.get_logger(__name__)


class TokenDesk:
    """Answers the requests to ``$cbs``.

    Args:
        claims: What the tokens add to.
    """

    def __init__(self, claims: Claims) -> None:
        self._claims = claims

    def answer(self, request: proton.Message) -> Reply:
        """Answer a put-token."""
        properties: dict[str, Any] = dict(request.properties or {})
        try:
            self._put(properties, request.body)
        except Refused as refusal:
            audience = quotable(str(properties.get("name")))
            _log.info(SIGNATURE_REFUSED, audience=audience, reason=str(refusal))
            return _status(refusal.status, str(refusal), refusal.condition)
        return _status(202, "Accepted")

    def _put(self, properties: dict[str, Any], token: object) -> None:
        if properties.get("operation") != "put-token":
            raise NotServed("Only put-token is served.")
        if properties.get("type") not in _TYPES:
            raise BadRequest(f"The token type must be one of {', '.join(_TYPES)}.")
        audience = str(properties.get("name") or "")
        self._claims.put(audience, read_token(token, time.time()))


def _status(code: int, description: str, condition: str | None = None) -> Reply:
    properties: dict[str, object] = {
        "status-code": proton.int32(code),
        "status-description": description,
    }
    if condition is not None:
        properties["error-condition"] = proton.symbol(condition)
    return Reply(properties)
