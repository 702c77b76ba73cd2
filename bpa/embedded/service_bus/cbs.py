"""Claims-based security: ``$cbs`` takes tokens and keeps them as the connection's claims."""

from __future__ import annotations

import time
from typing import Any

import proton
import structlog

from . import conditions
from .claims import Claims, TokenRefused, read_token
from .log_events import SIGNATURE_REFUSED
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
        if properties.get("operation") != "put-token":
            return _status(501, "Only put-token is served.", conditions.NOT_IMPLEMENTED)
        if properties.get("type") not in _TYPES:
            text = f"The token type must be one of {', '.join(_TYPES)}."
            return _status(400, text, conditions.ARGUMENT_ERROR)
        try:
            token = read_token(request.body, time.time())
            self._claims.put(str(properties.get("name") or ""), token)
        except TokenRefused as refusal:
            audience = str(properties.get("name"))[:200]
            _log.info(SIGNATURE_REFUSED, audience=audience, reason=str(refusal))
            return _status(401, str(refusal), conditions.UNAUTHORIZED)
        return _status(202, "Accepted")


def _status(code: int, description: str, condition: str | None = None) -> Reply:
    properties: dict[str, object] = {
        "status-code": proton.int32(code),
        "status-description": description,
    }
    if condition is not None:
        properties["error-condition"] = proton.symbol(condition)
    return Reply(properties)
