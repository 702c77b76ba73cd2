"""Translate messages between the SDK's shape and ours; pure, and never raises on what it is sent.

Everything but the broker's own annotations was written by a stranger: property names and values
may be bytes, any AMQP type, or invalid UTF-8.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.amqp import AmqpMessageBodyType

from bpa.connectors.sdk import Message, OutgoingMessage, PropertyValue

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE_MAX = 512
"""W3C Trace Context, 3.3.1.5: what vendors must at least propagate."""


def as_message(received: ServiceBusReceivedMessage, receipt: object) -> Message:
    """Return a received message as ours, with ``receipt`` to settle it by."""
    raw = received.raw_amqp_message
    annotations = _by_text_key(raw.annotations)
    body, undecodable = _body(received)
    properties = _properties(raw.application_properties)
    traceparent, tracestate = _trace_context(properties)
    enqueued_ms = annotations.get("x-opt-enqueued-time")
    return Message(
        body=body,
        undecodable=undecodable,
        content_type=_text_or_none(raw.properties.content_type if raw.properties else None),
        message_id=_text_or_none(raw.properties.message_id if raw.properties else None),
        correlation_id=_text_or_none(raw.properties.correlation_id if raw.properties else None),
        sequence_number=int(received.sequence_number or 0),
        enqueued_ms=enqueued_ms if isinstance(enqueued_ms, int) else 0,
        delivery_count=int(received.delivery_count or 0),
        locked_until=received.locked_until_utc or datetime.now(UTC),
        properties=properties,
        traceparent=traceparent,
        tracestate=tracestate,
        receipt=receipt,
    )


def as_sdk_message(message: OutgoingMessage) -> ServiceBusMessage:
    """Return one of our messages as the SDK sends it, trace context in all three properties."""
    properties: dict[str | bytes, Any] = dict(message.properties.items())
    if message.traceparent is not None:
        properties["traceparent"] = message.traceparent
        properties["Diagnostic-Id"] = message.traceparent
        if message.tracestate is not None:
            properties["tracestate"] = message.tracestate
    return ServiceBusMessage(
        message.body,
        content_type=message.content_type,
        message_id=message.message_id or uuid.uuid4().hex,
        application_properties=properties,
    )


def text(value: object) -> str:
    """Return any AMQP value as text; bytes are UTF-8, and what is not becomes U+FFFD."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", errors="replace")
    return str(value)


def _body(received: ServiceBusReceivedMessage) -> tuple[bytes, str | None]:
    """Return the bytes of a data body, or why there are none."""
    if received.body_type == AmqpMessageBodyType.DATA:
        return b"".join(bytes(section) for section in received.body), None
    if received.body_type == AmqpMessageBodyType.SEQUENCE:
        return b"", "AMQP sequence body: send the document as bytes"
    value = received.raw_amqp_message.body
    if value is None:
        return b"", None  # no body section, or an empty one: an empty document
    return b"", f"AMQP value body of type {type(value).__name__}: send the document as bytes"


def _properties(raw: Mapping[Any, Any] | None) -> dict[str, PropertyValue]:
    return {name: _property(value) for name, value in _by_text_key(raw).items()}


def _property(value: object) -> PropertyValue:
    return value if isinstance(value, bool | int | float) else text(value)


def _by_text_key(raw: Mapping[Any, Any] | None) -> dict[str, Any]:
    return {text(name): value for name, value in (raw or {}).items()}


def _text_or_none(value: object) -> str | None:
    return None if value is None else text(value)


def _trace_context(properties: Mapping[str, PropertyValue]) -> tuple[str | None, str | None]:
    """Return traceparent and tracestate: from the properties of that name, then Diagnostic-Id."""
    for name in ("traceparent", "Diagnostic-Id"):
        candidate = properties.get(name)
        if isinstance(candidate, str) and _TRACEPARENT.fullmatch(candidate):
            return candidate, _tracestate(properties.get("tracestate"))
    return None, None


def _tracestate(candidate: object) -> str | None:
    if not isinstance(candidate, str) or not candidate or len(candidate) > _TRACESTATE_MAX:
        return None
    return candidate if candidate.isascii() and candidate.isprintable() else None
