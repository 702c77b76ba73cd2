"""Cut the bytes of a connection into AMQP frames, for what the engine does not do as clients need.

Pure. The engine does not tell a transfer's message format, so the frames that carry the batch
format are fed to it one by one. It ends the connection over what comes for a session behind its
end, and the Python SDK detaches the links of ``$management`` there at every close: that is dropped.
Everything else goes through in as large pieces as it came.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto

from bpa import amqp

BATCH_FORMAT = 0x80013700
_BATCH_BYTES = BATCH_FORMAT.to_bytes(4, "big")
_BEGIN, _TRANSFER, _END, _CLOSE = (b"\x00\x53" + bytes((code,)) for code in (17, 20, 23, 24))
_MESSAGE_FORMAT_FIELD = 3
_HEADER_BYTES = 8


class _Kind(Enum):
    """What is done with a frame."""

    PLAIN = auto()
    BEGINS_BATCH = auto()
    TOO_LATE = auto()
    """It is for a session that its sender has ended."""


class FrameSplitter:
    """Hold back incomplete frames, mark those that begin a batch, drop those for ended sessions.

    Args:
        max_frame_bytes: What we announced; a larger frame is passed on for the engine to refuse.
    """

    def __init__(self, max_frame_bytes: int) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._held = b""
        self._raw = False
        self._ended: set[bytes] = set()
        """The channels of sessions that the peer has ended."""

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """Yield (bytes for the engine, whether they are one frame that begins a batch)."""
        if self._held:
            data = self._held + data
            self._held = b""
        if self._raw:
            yield data, False
            return
        worth_a_look = bool(self._ended) or _BATCH_BYTES in data or _END in data
        done, position, size = 0, 0, len(data)
        while position + _HEADER_BYTES <= size:
            end = self._frame_end(data, position)
            if end is None:
                self._raw = True
                position = size
                break
            if end > size:
                break
            kind = self._look_at(data[position:end]) if worth_a_look else _Kind.PLAIN
            if kind is not _Kind.PLAIN:
                if position > done:
                    yield data[done:position], False
                if kind is _Kind.BEGINS_BATCH:
                    yield data[position:end], True
                done = end
            position = end
        if position > done:
            yield data[done:position], False
        self._held = data[position:]

    def _frame_end(self, data: bytes, position: int) -> int | None:
        if data[position : position + 4] == b"AMQP":
            return position + _HEADER_BYTES
        length = int.from_bytes(data[position : position + 4], "big")
        if not _HEADER_BYTES <= length <= self._max_frame_bytes:
            return None
        return position + length

    def _look_at(self, frame: bytes) -> _Kind:
        body, channel = frame[4] * 4, frame[6:8]
        performative = frame[body : body + 3]
        if performative == _BEGIN:
            self._ended.discard(channel)
        elif channel in self._ended and performative not in (b"", _CLOSE):
            return _Kind.TOO_LATE
        elif performative == _END:
            self._ended.add(channel)
        elif performative == _TRANSFER and _begins_batch(frame, body):
            return _Kind.BEGINS_BATCH
        return _Kind.PLAIN


def _begins_batch(frame: bytes, body: int) -> bool:
    try:
        performative = frame[: amqp.value_end(frame, body)]
        fields = amqp.items(performative, body + 3)
    except (amqp.MalformedMessage, IndexError):
        return False
    return (
        len(fields) > _MESSAGE_FORMAT_FIELD
        and amqp.number(fields[_MESSAGE_FORMAT_FIELD]) == BATCH_FORMAT
    )
