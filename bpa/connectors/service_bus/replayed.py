"""Write a dead letter as the message that replays it: pure, on AMQP bytes.

The SDK's decoder drops the AMQP types of what it reads (a timestamp becomes an integer, a symbol
bytes), so a message sent again through its classes would not be the one that was sent. Here
everything of the sender's is copied as it stands, and only what a replay must change is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bpa import amqp
from bpa.connectors.sdk import PropertyValue

REASON = "DeadLetterReason"
DESCRIPTION = "DeadLetterErrorDescription"

_KEPT_HEADER_FIELDS = 3
"""Durable, priority, ttl; the rest is about deliveries that are over."""
_MESSAGE_ID, _CONTENT_TYPE, _CONTENT_ENCODING, _ABSOLUTE_EXPIRY = 0, 6, 7, 8
_PARTITION_KEY = "x-opt-partition-key"
_BROKER_PREFIX = "x-opt-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """What differs between a dead letter and the message that replays it."""

    message_id: str
    properties: Mapping[str, PropertyValue]
    """Application properties to set; an equal name of the sender's gives way."""
    removed: frozenset[str] = frozenset()
    """Further application properties to leave out."""
    body: bytes | None = None
    """Another body, as one data section; None keeps the body, whatever AMQP type it has."""
    content_type: str | None = None
    """With another body: its content type; None keeps the old one."""


def replayed(encoded: bytes, rewrite: Rewrite) -> bytes:
    """Return the encoded message that replays an encoded dead letter.

    Kept as they are, to the bit: body, application properties, correlation id, session and all
    other fields of the properties section, the sender's own annotations, the partition key,
    durability, priority and time to live. Left out: what the broker wrote, why the message was
    dead-lettered, and an absolute expiry, which would end the new message by the old one's clock.

    Raises:
        MalformedMessage: The bytes are no AMQP message.
    """
    parts = {code: encoded[value:end] for code, _, value, end in amqp.sections(encoded)}
    return b"".join(
        (
            _header(parts.get(amqp.HEADER)),
            _annotations(parts.get(amqp.MESSAGE_ANNOTATIONS)),
            _properties(parts.get(amqp.PROPERTIES), rewrite),
            _application_properties(parts.get(amqp.APPLICATION_PROPERTIES), rewrite),
            _body(encoded, rewrite),
        )
    )


def _fields(value: bytes | None) -> list[bytes]:
    return [] if value is None or value == amqp.NULL else amqp.items(value, 0)


def _header(value: bytes | None) -> bytes:
    kept = _fields(value)[:_KEPT_HEADER_FIELDS]
    return amqp.encode_section(amqp.HEADER, amqp.encode_list(kept)) if kept else b""


def _annotations(value: bytes | None) -> bytes:
    kept = [key + item for key, item in amqp.pairs(value or amqp.NULL, 0) if _is_sender_s(key)]
    if not kept:
        return b""
    annotations = amqp.encode_map(b"".join(kept), len(kept))
    return amqp.encode_section(amqp.MESSAGE_ANNOTATIONS, annotations)


def _is_sender_s(key: bytes) -> bool:
    name = amqp.text(key)
    return name is None or name == _PARTITION_KEY or not name.startswith(_BROKER_PREFIX)


def _properties(value: bytes | None, rewrite: Rewrite) -> bytes:
    fields = _fields(value)
    fields += [amqp.NULL] * (_ABSOLUTE_EXPIRY + 1 - len(fields))
    fields[_MESSAGE_ID] = amqp.encode_string(rewrite.message_id)
    fields[_ABSOLUTE_EXPIRY] = amqp.NULL
    if rewrite.body is not None:
        fields[_CONTENT_ENCODING] = amqp.NULL
        if rewrite.content_type is not None:
            fields[_CONTENT_TYPE] = amqp.encode_symbol(rewrite.content_type)
    return amqp.encode_section(amqp.PROPERTIES, amqp.encode_list(fields))


def _application_properties(value: bytes | None, rewrite: Rewrite) -> bytes:
    gone = rewrite.removed | rewrite.properties.keys() | {REASON, DESCRIPTION}
    pairs = [
        key + item for key, item in amqp.pairs(value or amqp.NULL, 0) if amqp.text(key) not in gone
    ]
    pairs += [amqp.encode_string(name) + _value(v) for name, v in rewrite.properties.items()]
    return amqp.encode_section(
        amqp.APPLICATION_PROPERTIES, amqp.encode_map(b"".join(pairs), len(pairs))
    )


def _value(value: PropertyValue) -> bytes:
    if isinstance(value, bool):
        return amqp.encode_boolean(value=value)
    return amqp.encode_long(value) if isinstance(value, int) else amqp.encode_string(str(value))


def _body(encoded: bytes, rewrite: Rewrite) -> bytes:
    if rewrite.body is not None:
        return amqp.encode_section(amqp.DATA, amqp.encode_binary(rewrite.body))
    starts = [start for code, start, _, _ in amqp.sections(encoded) if code >= amqp.DATA]
    return encoded[starts[0] :] if starts else b""
