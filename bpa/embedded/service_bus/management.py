"""``<queue>/$management``: what clients ask about messages by lock token or sequence number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import proton

from bpa.amqp import MalformedMessage

from .broker import Broker
from .content import read_content
from .links import encoded_properties, optional_text
from .message import Lock, Message
from .queue import Queue
from .refusals import BadRequest, MessageTooLarge, NotServed, Refused
from .requests import Reply

_MOST_PEEKED = 1000
_PEEKED_BYTES = 200 * 1024
_DEFERRED_BYTES = 16 * 1024 * 1024
"""No more than a connection lets wait: it would end, and with it what is received and deleted."""
_RECEIVE_AND_DELETE, _PEEK_LOCK = 0, 1
_DEFERRED = ("defered", "deferred")
"""The SDKs spell it with one r."""
_UNDESCRIBED: Any = proton.UNDESCRIBED


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
            "com.microsoft:schedule-message": self._schedule,
            "com.microsoft:cancel-scheduled-message": self._cancel_scheduled,
            "com.microsoft:receive-by-sequence-number": self._receive_deferred,
        }

    def answer(self, request: proton.Message) -> Reply:
        """Carry out a request."""
        self._queue.accessed_ms = self._broker.now_ms()
        try:
            return self._serve(_properties(request).get("operation"), request.body)
        except MalformedMessage as error:
            return _failure(BadRequest(str(error)))
        except Refused as refusal:
            return _failure(refusal)

    def _serve(self, operation: object, body: object) -> Reply:
        serve = self._operations.get(str(operation))
        if serve is None:
            raise NotServed(f"The operation {operation!r} is not served yet.")
        if not isinstance(body, dict):
            raise BadRequest("The body must be a map.")
        return serve(body)

    def _renew_locks(self, body: dict[str, Any]) -> Reply:
        now_ms = self._broker.now_ms()
        expiries = [self._queue.renew(token, now_ms) for token in _lock_tokens(body)]
        array: Any = proton.Array(_UNDESCRIBED, proton.Data.TIMESTAMP, *expiries)
        return _success({"expirations": array})

    def _peek(self, body: dict[str, Any]) -> Reply:
        if body.get("session-id") is not None:
            raise NotServed("Sessions are not served yet.")
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
        changes = encoded_properties(_map(body, "properties-to-modify"))
        for token in tokens:
            if status == "completed":
                self._queue.complete(token, now_ms)
            elif status == "abandoned":
                self._queue.abandon(token, now_ms, changes)
            elif status in _DEFERRED:
                self._queue.defer(token, now_ms, changes)
            elif status == "suspended":
                self._queue.dead_letter(
                    token,
                    now_ms,
                    reason=optional_text(body.get("deadletter-reason")),
                    description=optional_text(body.get("deadletter-description")),
                    changes=changes,
                )
            else:
                raise BadRequest(f"{status!r} is no disposition-status.")
        return _success(None, when_durable=_do_nothing)

    def _schedule(self, body: dict[str, Any]) -> Reply:
        found = _encoded_messages(body)
        limit = self._broker.tier.message_bytes(self._queue.config)
        if any(len(encoded) > limit for encoded in found):
            raise MessageTooLarge(limit)
        contents = [read_content(encoded) for encoded in found]
        if any(content.scheduled_ms is None for content in contents):
            raise BadRequest("A message lacks the annotation x-opt-scheduled-enqueue-time.")
        accepted = self._queue.enqueue(contents, self._broker.now_ms())
        numbers: Any = proton.Array(_UNDESCRIBED, proton.Data.LONG, *accepted.sequences)
        return _success({"sequence-numbers": numbers}, when_durable=accepted.publish)

    def _cancel_scheduled(self, body: dict[str, Any]) -> Reply:
        self._queue.cancel(_sequence_numbers(body))
        return _success(None, when_durable=_do_nothing)

    def _receive_deferred(self, body: dict[str, Any]) -> Reply:
        mode = _whole_number(body, "receiver-settle-mode")
        if mode not in (_RECEIVE_AND_DELETE, _PEEK_LOCK):
            raise BadRequest("receiver-settle-mode must be 0 or 1.")
        found = self._queue.receive_deferred(
            _sequence_numbers(body),
            self._broker.now_ms(),
            most_bytes=_DEFERRED_BYTES,
            deleting=mode == _RECEIVE_AND_DELETE,
        )
        messages = [_delivered(message, lock) for message, lock in found]
        return _success({"messages": messages}, when_durable=_do_nothing)


def _delivered(message: Message, lock: Lock | None) -> dict[str, Any]:
    if lock is None:
        return {"message": message.encoded()}
    return {"lock-token": UUID(bytes_le=lock.token), "message": message.encoded(lock.expires_ms)}


def _do_nothing() -> None:
    """Wait for nothing but durability."""


def _properties(request: proton.Message) -> dict[str, Any]:
    return dict(request.properties or {})


def _elements(body: dict[str, Any], key: str, kind: type, name: str) -> list[Any]:
    value = body.get(key)
    found = list(value.elements) if isinstance(value, proton.Array) else value
    if not isinstance(found, list) or not all(isinstance(item, kind) for item in found):
        raise BadRequest(f"{key} must be an array of {name}.")
    return found


def _lock_tokens(body: dict[str, Any]) -> list[bytes]:
    return [token.bytes_le for token in _elements(body, "lock-tokens", UUID, "uuid")]


def _sequence_numbers(body: dict[str, Any]) -> list[int]:
    return [int(number) for number in _elements(body, "sequence-numbers", int, "long")]


def _encoded_messages(body: dict[str, Any]) -> list[bytes]:
    found = []
    for entry in _elements(body, "messages", dict, "map"):
        encoded = entry.get("message")
        if not isinstance(encoded, bytes | memoryview):
            raise BadRequest("Each of messages must hold an encoded message.")
        found.append(bytes(encoded))
    return found


def _map(body: dict[str, Any], key: str) -> dict[str, Any]:
    value = body.get(key) or {}
    if not isinstance(value, dict):
        raise BadRequest(f"{key} must be a map.")
    return {str(name): item for name, item in value.items()}


def _whole_number(body: dict[str, Any], key: str) -> int:
    value = body.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadRequest(f"{key} must be a whole number.")
    return int(value)


def _success(body: Any, when_durable: Callable[[], None] | None = None) -> Reply:
    properties = {"statusCode": proton.int32(200), "statusDescription": "OK"}
    return Reply(properties, body, when_durable)


def _failure(refusal: Refused) -> Reply:
    condition = proton.symbol(refusal.condition)
    return Reply(
        {
            "statusCode": proton.int32(refusal.status),
            "statusDescription": str(refusal),
            "errorCondition": condition,
            "error-condition": condition,
        }
    )
