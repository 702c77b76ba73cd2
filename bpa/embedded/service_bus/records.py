"""The journal's records: what each says, and how it is written in bytes.

Pure. On disk a record is ``length:u32, crc32:u32, kind:u8, path length:u16, path, fields``, all
big endian; the check covers everything behind it. ``Replay`` folds records, oldest first, into
the state they leave behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from mmap import mmap
from struct import Struct
from zlib import crc32

from .content import Content, duplicate_key
from .message import Message, State

_FRAME = Struct(">II")
_PREFIX = Struct(">BH")
_SEQUENCE = Struct(">Q")
_COUNTED = Struct(">QI")
_MESSAGE = Struct(">QqqIqqHIHI")
_ACTIVATION = Struct(">QQqq")
_SIGHT = Struct(">Qq")
_ENQUEUED, _LOCKED, _UNLOCKED, _REMOVED, _NEXT_SEQUENCE = range(1, 6)
_ENTITY, _DELETED = 64, 65
_SCHEDULED, _SET_ASIDE, _DEFERRED, _ACTIVATED, _SEEN = range(6, 11)
_HOMES = {_ENQUEUED: State.ACTIVE, _SCHEDULED: State.SCHEDULED, _SET_ASIDE: State.DEFERRED}
_KINDS = {home: kind for kind, home in _HOMES.items()}
_NOTED = 0x80
_NONE = -1


def _record(kind: int, path: str, *fields: bytes) -> bytes:
    raw = path.encode()
    body = b"".join((_PREFIX.pack(kind, len(raw)), raw, *fields))
    return _FRAME.pack(len(body), crc32(body)) + body


def enqueued(path: str, message: Message, *, noted: bool = False) -> bytes:
    """Say that a queue holds a message, unlocked, with all that is known of it.

    Args:
        path: The queue.
        message: The message.
        noted: Whether its id counts as seen from now on; one record says both, so that no crash
            leaves one without the other.
    """
    content = message.content
    fixed = _MESSAGE.pack(
        message.sequence,
        message.enqueued_ms,
        _NONE if message.expires_ms is None else message.expires_ms,
        message.delivery_count,
        _NONE if content.ttl_ms is None else content.ttl_ms,
        _NONE if content.scheduled_ms is None else content.scheduled_ms,
        content.annotations_count,
        len(content.annotations),
        len(content.header),
        len(content.bare),
    )
    kind = _KINDS[message.home] | (_NOTED if noted else 0)
    return _record(kind, path, fixed, content.annotations, content.header, content.bare)


def locked(path: str, sequence: int) -> bytes:
    """Say that a message was delivered under a lock."""
    return _record(_LOCKED, path, _SEQUENCE.pack(sequence))


def unlocked(path: str, message: Message) -> bytes:
    """Say that a message came back to its home, with its delivery count."""
    kind = _DEFERRED if message.home is State.DEFERRED else _UNLOCKED
    return _record(kind, path, _COUNTED.pack(message.sequence, message.delivery_count))


def activated(path: str, scheduled_sequence: int, message: Message) -> bytes:
    """Say that a scheduled message's time has come, and which number it has from then on."""
    expires_ms = _NONE if message.expires_ms is None else message.expires_ms
    fields = scheduled_sequence, message.sequence, message.enqueued_ms, expires_ms
    return _record(_ACTIVATED, path, _ACTIVATION.pack(*fields))


def seen(path: str, key: bytes, at_ms: int, sequence: int) -> bytes:
    """Say that a message id was accepted, when, and under which number."""
    return _record(_SEEN, path, _SIGHT.pack(sequence, at_ms), key)


def removed(path: str, sequence: int) -> bytes:
    """Say that a message left a queue."""
    return _record(_REMOVED, path, _SEQUENCE.pack(sequence))


def next_sequence(path: str, sequence: int) -> bytes:
    """Say which sequence number a queue gives out next."""
    return _record(_NEXT_SEQUENCE, path, _SEQUENCE.pack(sequence))


def entity(path: str, described: bytes) -> bytes:
    """Say that a queue exists, with its properties as ``entities`` writes them."""
    return _record(_ENTITY, path, described)


def deleted(path: str) -> bytes:
    """Say that a queue is gone, with all its messages."""
    return _record(_DELETED, path)


def bodies(data: bytes | mmap, start: int = 0) -> Iterator[tuple[bytes, int]]:
    """Yield (record body, offset behind it) up to the first that is torn or damaged."""
    position = start
    while position + _FRAME.size <= len(data):
        length, check = _FRAME.unpack_from(data, position)
        begin = position + _FRAME.size
        body = data[begin : begin + length]
        if len(body) != length or length < _PREFIX.size or crc32(body) != check:
            return
        position = begin + length
        yield body, position


@dataclass(slots=True)
class KeptQueue:
    """What a journal knows of one queue."""

    messages: dict[int, Message] = field(default_factory=dict)
    locked: set[int] = field(default_factory=set)
    next_sequence: int = 1
    seen: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    """The time and sequence number of each message id that was accepted."""

    def hold(self, message: Message) -> None:
        """Take a message in, unlocked."""
        self.locked.discard(message.sequence)
        self.messages[message.sequence] = message
        self.next_sequence = max(self.next_sequence, message.sequence + 1)


class Replay:
    """Folds records into the queues they describe, by path."""

    def __init__(self) -> None:
        self.queues: dict[str, KeptQueue] = {}
        self.entities: dict[str, bytes] = {}

    def apply(self, body: bytes) -> None:
        """Take one record in, oldest first."""
        kind, size = _PREFIX.unpack_from(body)
        start = _PREFIX.size + size
        path = body[_PREFIX.size : start].decode()
        if kind == _ENTITY:
            self.entities[path] = body[start:]
        elif kind == _DELETED:
            self.entities.pop(path, None)
            self.queues.pop(path, None)
        else:
            self._apply_to_queue(kind, path, body, start)

    def _apply_to_queue(self, kind: int, path: str, body: bytes, start: int) -> None:
        queue = self.queues.setdefault(path, KeptQueue())
        sequence = _SEQUENCE.unpack_from(body, start)[0]
        if kind & ~_NOTED in _HOMES:
            message = _read_message(body, start, _HOMES[kind & ~_NOTED])
            queue.hold(message)
            if kind & _NOTED:
                queue.seen[duplicate_key(message.content)] = message.enqueued_ms, sequence
        elif kind == _LOCKED:
            queue.locked.add(sequence)
        elif kind in (_UNLOCKED, _DEFERRED):
            message = queue.messages[sequence]
            message.delivery_count = _COUNTED.unpack_from(body, start)[1]
            message.home = State.DEFERRED if kind == _DEFERRED else State.ACTIVE
            queue.hold(message)
        elif kind == _REMOVED:
            queue.locked.discard(sequence)
            del queue.messages[sequence]
        elif kind == _NEXT_SEQUENCE:
            queue.next_sequence = max(queue.next_sequence, sequence)
        elif kind == _ACTIVATED:
            queue.hold(_activate(queue.messages.pop(sequence), body, start))
        elif kind == _SEEN:
            key = body[start + _SIGHT.size :]
            queue.seen[key] = _SIGHT.unpack_from(body, start)[1], sequence
        else:
            raise ValueError(f"unknown record kind {kind}")


def _activate(message: Message, body: bytes, start: int) -> Message:
    fields = _ACTIVATION.unpack_from(body, start)
    _, message.sequence, message.enqueued_ms, expires_ms = fields
    message.expires_ms = None if expires_ms == _NONE else expires_ms
    message.home = State.ACTIVE
    return message


def _read_message(body: bytes, start: int, home: State) -> Message:
    sequence, enqueued_ms, expires_ms, count, ttl_ms, scheduled_ms, pairs, *sizes = (
        _MESSAGE.unpack_from(body, start)
    )
    pieces = []
    position = start + _MESSAGE.size
    for size in sizes:
        pieces.append(body[position : position + size])
        position += size
    annotations, header, bare = pieces
    content = Content(
        header,
        annotations,
        pairs,
        bare,
        None if ttl_ms == _NONE else ttl_ms,
        None if scheduled_ms == _NONE else scheduled_ms,
    )
    expiry = None if expires_ms == _NONE else expires_ms
    return Message(sequence, enqueued_ms, content, expiry, count, home=home)
