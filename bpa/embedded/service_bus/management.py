"""``<queue>/$management``: what clients ask about messages by lock token or sequence number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import proton

from . import conditions
from .broker import Broker
from .queue import MessageLockLost, NotInDeadLetters, Queue
from .requests import Reply

_MOST_PEEKED = 1000
_PEEKED_BYTES = 200 * 1024
_UNDESCRIBED: Any = proton.UNDESCRIBED


class BadRequest(Exception):
    """The request lacks a field, or has one of a wrong type."""


class Management:
    """Answers the management requests of one queue.

    Args:
        broker: Tells the time.
        queue: The queue or dead-letter queue it manages.
    """

    def __init__(self, broker: Broker, queue: Queue) -> None:
        self._broker = broker
        self._queue = queue
        self._operations: dict[str, Callable[[dict[str, Any]], Reply]] = {
            "com.microsoft:renew-lock": self._renew_locks,
            "com.microsoft:peek-message": self._peek,
            "com.microsoft:update-disposition": self._update_disposition,
        }

    def answer(self, request: proton.Message) -> Reply:
        """Carry out a request."""
        operation = _properties(request).get("operation")
        serve = self._operations.get(str(operation))
        if serve is None:
            text = f"The operation {operation!r} is not served yet."
            return _failure(501, conditions.NOT_IMPLEMENTED, text)
        if not isinstance(request.body, dict):
            return _failure(400, conditions.ARGUMENT_ERROR, "The body must be a map.")
        try:
            return serve(request.body)
        except BadRequest as error:
            return _failure(400, conditions.ARGUMENT_ERROR, str(error))
        except MessageLockLost:
            return _failure(410, conditions.MESSAGE_LOCK_LOST, conditions.LOCK_LOST_TEXT)
        except NotInDeadLetters:
            text = "A dead letter cannot be dead-lettered again."
            return _failure(400, conditions.NOT_ALLOWED, text)

    def _renew_locks(self, body: dict[str, Any]) -> Reply:
        now_ms = self._broker.now_ms()
        expiries = [self._queue.renew(token, now_ms) for token in _lock_tokens(body)]
        array: Any = proton.Array(_UNDESCRIBED, proton.Data.TIMESTAMP, *expiries)
        return _success({"expirations": array})

    def _peek(self, body: dict[str, Any]) -> Reply:
        if body.get("session-id") is not None:
            return _failure(501, conditions.NOT_IMPLEMENTED, "Sessions are not served yet.")
        start = _whole_number(body, "from-sequence-number")
        limit = min(_whole_number(body, "message-count"), _MOST_PEEKED)
        found: list[dict[str, bytes]] = []
        size = 0
        for message in self._queue.peek(start, max(limit, 0)):
            encoded = message.encoded()
            size += len(encoded)
            if found and size > _PEEKED_BYTES:
                break
            found.append({"message": encoded})
        if not found:
            return Reply({"statusCode": proton.int32(204), "statusDescription": "NoContent"})
        return _success({"messages": found})

    def _update_disposition(self, body: dict[str, Any]) -> Reply:
        status = body.get("disposition-status")
        tokens = _lock_tokens(body)
        now_ms = self._broker.now_ms()
        for token in tokens:
            if status == "completed":
                self._queue.complete(token, now_ms)
            elif status == "abandoned":
                self._queue.abandon(token, now_ms)
            elif status == "suspended":
                self._queue.dead_letter(
                    token,
                    now_ms,
                    reason=_optional_text(body, "deadletter-reason"),
                    description=_optional_text(body, "deadletter-description"),
                    extra={},
                )
            else:
                text = f"The disposition {status!r} is not served yet."
                return _failure(501, conditions.NOT_IMPLEMENTED, text)
        return _success(None, after_sync=True)


def _properties(request: proton.Message) -> dict[str, Any]:
    return dict(request.properties or {})


def _lock_tokens(body: dict[str, Any]) -> list[bytes]:
    value = body.get("lock-tokens")
    tokens = list(value.elements) if isinstance(value, proton.Array) else value
    if not isinstance(tokens, list) or not all(isinstance(token, UUID) for token in tokens):
        raise BadRequest("lock-tokens must be an array of uuid.")
    return [token.bytes_le for token in tokens]


def _whole_number(body: dict[str, Any], key: str) -> int:
    value = body.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadRequest(f"{key} must be a whole number.")
    return int(value)


def _optional_text(body: dict[str, Any], key: str) -> str | None:
    value = body.get(key)
    return None if value is None else str(value)


def _success(body: Any, *, after_sync: bool = False) -> Reply:
    properties = {"statusCode": proton.int32(200), "statusDescription": "OK"}
    return Reply(properties, body, after_sync)


def _failure(code: int, condition: str, description: str) -> Reply:
    return Reply(
        {
            "statusCode": proton.int32(code),
            "statusDescription": description,
            "errorCondition": proton.symbol(condition),
            "error-condition": proton.symbol(condition),
        }
    )
