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

from .content import Content
from .message import Message

_FRAME = Struct(">II")
_PREFIX = Struct(">BH")
_SEQUENCE = Struct(">Q")
_COUNTED = Struct(">QI")
_MESSAGE = Struct(">QqqIqqHIHI")
_ENQUEUED, _LOCKED, _UNLOCKED, _REMOVED, _NEXT_SEQUENCE = range(1, 6)
_ENTITY, _DELETED = 64, 65
_NONE = -1


def _record(kind: int, path: str, *fields: bytes) -> bytes:
    raw = path.encode()
    body = b"".join((_PREFIX.pack(kind, len(raw)), raw, *fields))
    return _FRAME.pack(len(body), crc32(body)) + body


def enqueued(path: str, message: Message) -> bytes:
    """Say that a queue holds a message, with all that is known of it."""
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
    return _record(_ENQUEUED, path, fixed, content.annotations, content.header, content.bare)


def locked(path: str, sequence: int) -> bytes:
    """Say that a message was delivered under a lock."""
    return _record(_LOCKED, path, _SEQUENCE.pack(sequence))


def unlocked(path: str, sequence: int, delivery_count: int) -> bytes:
    """Say that a message came back, with its delivery count."""
    return _record(_UNLOCKED, path, _COUNTED.pack(sequence, delivery_count))


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
        if kind == _ENQUEUED:
            queue.messages[sequence] = _read_message(body, start)
            queue.next_sequence = max(queue.next_sequence, sequence + 1)
        elif kind == _LOCKED:
            queue.locked.add(sequence)
        elif kind == _UNLOCKED:
            queue.locked.discard(sequence)
            queue.messages[sequence].delivery_count = _COUNTED.unpack_from(body, start)[1]
        elif kind == _REMOVED:
            queue.locked.discard(sequence)
            del queue.messages[sequence]
        elif kind == _NEXT_SEQUENCE:
            queue.next_sequence = max(queue.next_sequence, sequence)
        else:
            raise ValueError(f"unknown record kind {kind}")


def _read_message(body: bytes, start: int) -> Message:
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
    return Message(sequence, enqueued_ms, content, expiry, count)
