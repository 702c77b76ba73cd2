"""What a sender sent, cut into what the broker owns and what it passes on untouched.

Pure. Section ownership is AMQP 1.0's (part 3 section 3.2): header and message annotations belong
to the broker, the bare message (properties to footer) to the application.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import uuid4

from msgspec import Struct
from msgspec.structs import replace

from bpa import amqp
from bpa.amqp import MalformedMessage

DEAD_LETTER_REASON = "DeadLetterReason"
DEAD_LETTER_DESCRIPTION = "DeadLetterErrorDescription"
_LONGEST_REASON_CHARS = 4096
_LARGE_BYTES = 1024 * 1024

_SEQUENCE_NUMBER = amqp.encode_symbol("x-opt-sequence-number")
_ENQUEUED_TIME = amqp.encode_symbol("x-opt-enqueued-time")
_ENQUEUE_SEQUENCE = amqp.encode_symbol("x-opt-enqueue-sequence-number")
_MESSAGE_STATE = amqp.encode_symbol("x-opt-message-state") + b"\x54"
_LOCKED_UNTIL = amqp.encode_symbol("x-opt-locked-until")
_SCHEDULED_TIME = "x-opt-scheduled-enqueue-time"
_BROKER_OWNED = frozenset(
    {
        "x-opt-sequence-number",
        "x-opt-enqueued-time",
        "x-opt-enqueue-sequence-number",
        "x-opt-message-state",
        "x-opt-locked-until",
        "x-opt-deadletter-source",
    }
)
_NO_HEADER_FIELDS = amqp.NULL * 4
_ABSOLUTE_EXPIRY, _CREATION_TIME = 8, 9
_LONGEST_TTL_MS = 2**32 - 1
_LONGEST_LIFE_MS = 10_675_199 * 86_400_000
"""What the service calls unending: all that a .NET TimeSpan holds."""
_LAST_MS = 2**63 - 1
"""What the journal can write of a time."""


class Content(Struct, frozen=True, gc=False):
    """One message as it is kept: encoded pieces that a delivery joins with the broker's own."""

    header: bytes
    """Encoded durable, priority, ttl and first-acquirer: the header but for the delivery count."""
    annotations: bytes
    """Encoded pairs of the sender's message annotations, without those the broker owns."""
    annotations_count: int
    bare: bytes
    """Properties to footer, as sent (a message id is added where there was none)."""
    ttl_ms: int | None = None
    scheduled_ms: int | None = None

    @property
    def size_bytes(self) -> int:
        """How large it is."""
        return len(self.header) + len(self.annotations) + len(self.bare)

    @property
    def counted_bytes(self) -> int:
        """What it adds to its queue's size; a large one twice (Microsoft's limits by tier)."""
        size = self.size_bytes
        return 2 * size if size > _LARGE_BYTES else size


def read_content(encoded: bytes) -> Content:
    """Cut an encoded message up.

    Raises:
        MalformedMessage: It is not an AMQP message.
    """
    header, ttl_ms = _NO_HEADER_FIELDS, None
    annotations: list[bytes] = []
    scheduled_ms = None
    properties: tuple[int, int] | None = None
    bare_at = len(encoded)
    for code, start, value, end in amqp.sections(encoded):
        if code == amqp.HEADER:
            header, ttl_ms = _read_header(encoded, value)
        elif code == amqp.MESSAGE_ANNOTATIONS:
            annotations, scheduled_ms = _read_annotations(encoded, value)
        elif code >= amqp.PROPERTIES:
            bare_at = min(bare_at, start)
            if code == amqp.PROPERTIES:
                properties = (value, end)
    if not encoded:
        raise MalformedMessage("the message is empty")
    fields = _property_fields(encoded, properties)
    ttl_ms = _life_ms(fields, ttl_ms)
    bare = _with_message_id(encoded, bare_at, properties, fields)
    return Content(header, b"".join(annotations), len(annotations), bare, ttl_ms, scheduled_ms)


def read_batch(encoded: bytes) -> list[Content]:
    """Cut a batch (message format 0x80013700) into its messages.

    Raises:
        MalformedMessage: A data section is no message, or there is none.
    """
    found = [
        read_content(amqp.binary(encoded, value))
        for code, _, value, _ in amqp.sections(encoded)
        if code == amqp.DATA
    ]
    if not found:
        raise MalformedMessage("the batch holds no message")
    return found


def _read_header(encoded: bytes, value: int) -> tuple[bytes, int | None]:
    fields = amqp.items(encoded, value)[:4]
    fields += [amqp.NULL] * (4 - len(fields))
    if sum(map(len, fields)) > 64:
        raise MalformedMessage("the header section has fields of a wrong type")
    return b"".join(fields), amqp.number(fields[2])


def _property_fields(encoded: bytes, properties: tuple[int, int] | None) -> list[bytes]:
    if properties is None or encoded[properties[0] : properties[0] + 1] == amqp.NULL:
        return []
    return amqp.items(encoded, properties[0])


def _life_ms(fields: list[bytes], ttl_ms: int | None) -> int | None:
    """Return the time to live, which a pair of times says when the header's 49 days are too few."""
    if len(fields) > _CREATION_TIME:
        expiry_ms, creation_ms = map(amqp.number, fields[_ABSOLUTE_EXPIRY : _CREATION_TIME + 1])
        if expiry_ms is not None and creation_ms is not None:
            ttl_ms = expiry_ms - creation_ms
    return None if ttl_ms is None else min(max(0, ttl_ms), _LONGEST_LIFE_MS)


def _read_annotations(encoded: bytes, value: int) -> tuple[list[bytes], int | None]:
    kept: list[bytes] = []
    scheduled_ms = None
    for key, item in amqp.pairs(encoded, value):
        name = amqp.text(key)
        if name == _SCHEDULED_TIME:
            asked_ms = amqp.number(item)
            scheduled_ms = None if asked_ms is None else min(max(0, asked_ms), _LAST_MS)
        if name not in _BROKER_OWNED:
            kept.append(key + item)
    return kept, scheduled_ms


def _with_message_id(
    encoded: bytes, bare_at: int, properties: tuple[int, int] | None, fields: list[bytes]
) -> bytes:
    """Return the bare message, with a message id: clients cannot settle without one."""
    if fields and fields[0] != amqp.NULL:
        return encoded[bare_at:]
    rest = encoded[bare_at if properties is None else properties[1] :]
    fields = fields or [amqp.NULL]
    fields[0] = amqp.encode_string(uuid4().hex)
    return amqp.encode_section(amqp.PROPERTIES, amqp.encode_list(fields)) + rest


def duplicate_key(content: Content) -> bytes:
    """Return what tells a message id from others, however its value was encoded."""
    for code, _, value, _ in amqp.sections(content.bare):
        if code == amqp.PROPERTIES:
            encoded = amqp.items(content.bare, value)[0]
            text, number = amqp.text(encoded), amqp.number(encoded)
            if text is not None:
                return b"s" + text.encode()
            return encoded if number is None else b"n%d" % number
    raise MalformedMessage("the message has no id")


def broker_annotations(sequence: int, enqueued_ms: int, state: int) -> bytes:
    """Encode the four annotations that stay with a message for life."""
    number = amqp.encode_long(sequence)
    return b"".join(
        (
            _SEQUENCE_NUMBER,
            number,
            _ENQUEUED_TIME,
            amqp.encode_timestamp(enqueued_ms),
            _ENQUEUE_SEQUENCE,
            number,
            _MESSAGE_STATE,
            bytes((state,)),
        )
    )


def render(
    content: Content,
    sequence: int,
    enqueued_ms: int,
    delivery_count: int,
    locked_until_ms: int | None,
    *,
    state: int = 0,
    expires_ms: int | None = None,
) -> bytes:
    """Encode a message for a receiver.

    Args:
        content: What the sender sent.
        sequence: Its number.
        enqueued_ms: When it was enqueued.
        delivery_count: How often it came back.
        locked_until_ms: When its lock ends; None for one that is not locked.
        state: 0 active, 1 deferred, 2 scheduled.
        expires_ms: When it expires; header and properties then say so, as the service has it.
    """
    if expires_ms is not None:
        content = _with_expiry(content, enqueued_ms, expires_ms)
    head = content.header + amqp.encode_uint(delivery_count)
    pairs, count = broker_annotations(sequence, enqueued_ms, state) + content.annotations, 4
    if locked_until_ms is not None:
        pairs += _LOCKED_UNTIL + amqp.encode_timestamp(locked_until_ms)
        count = 5
    count += content.annotations_count
    return b"".join(
        (
            b"\x00\x53\x70\xc0",
            bytes((1 + len(head), 5)),
            head,
            b"\x00\x53\x72",
            amqp.encode_map(pairs, count),
            content.bare,
        )
    )


def _with_expiry(content: Content, enqueued_ms: int, expires_ms: int) -> Content:
    ttl_at = amqp.value_end(content.header, amqp.value_end(content.header, 0))
    ttl_end = amqp.value_end(content.header, ttl_at)
    ttl = amqp.encode_uint(min(max(0, expires_ms - enqueued_ms), _LONGEST_TTL_MS))
    header = content.header[:ttl_at] + ttl + content.header[ttl_end:]
    _, _, value, end = next(amqp.sections(content.bare))
    fields = amqp.items(content.bare, value)
    fields += [amqp.NULL] * (_CREATION_TIME + 1 - len(fields))
    fields[_ABSOLUTE_EXPIRY] = amqp.encode_timestamp(expires_ms)
    fields[_CREATION_TIME] = amqp.encode_timestamp(enqueued_ms)
    properties = amqp.encode_section(amqp.PROPERTIES, amqp.encode_list(fields))
    return replace(content, header=header, bare=properties + content.bare[end:])


def with_dead_letter_reason(
    content: Content, reason: str | None, description: str | None, changes: Mapping[str, bytes]
) -> Content:
    """Put a dead letter's reason and description among its application properties."""
    added = dict(changes)
    if reason is not None:
        added[DEAD_LETTER_REASON] = amqp.encode_string(reason[:_LONGEST_REASON_CHARS])
    if description is not None:
        added[DEAD_LETTER_DESCRIPTION] = amqp.encode_string(description[:_LONGEST_REASON_CHARS])
    return with_properties(content, added)


def with_properties(content: Content, changes: Mapping[str, bytes]) -> Content:
    """Set application properties, given encoded; the others keep their bytes and their order."""
    if not changes:
        return content
    bare = content.bare
    kept: list[bytes] = []
    insert_at, resume_at = 0, 0
    for code, _, value, end in amqp.sections(bare):
        if code == amqp.PROPERTIES:
            insert_at = resume_at = end
        elif code == amqp.APPLICATION_PROPERTIES:
            kept = [k + v for k, v in amqp.pairs(bare, value) if amqp.text(k) not in changes]
            resume_at = end
    kept += [amqp.encode_string(name) + value for name, value in changes.items()]
    section = amqp.encode_section(
        amqp.APPLICATION_PROPERTIES, amqp.encode_map(b"".join(kept), len(kept))
    )
    return replace(content, bare=bare[:insert_at] + section + bare[resume_at:])
