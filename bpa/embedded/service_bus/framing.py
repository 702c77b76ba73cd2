"""Cut the bytes of a connection into AMQP frames, to see which transfers are batches.

Pure. The engine does not tell a transfer's message format, so the frames that carry the batch
format are fed to it one by one; everything else goes through in as large pieces as it came.
"""

from __future__ import annotations

from collections.abc import Iterator

from bpa import amqp

BATCH_FORMAT = 0x80013700
_BATCH_BYTES = BATCH_FORMAT.to_bytes(4, "big")
_TRANSFER = b"\x00\x53\x14"
_MESSAGE_FORMAT_FIELD = 3
_HEADER_BYTES = 8


class FrameSplitter:
    """Hold back incomplete frames and mark those that begin a batch.

    Args:
        max_frame_bytes: What we announced; a larger frame is passed on for the engine to refuse.
    """

    def __init__(self, max_frame_bytes: int) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._held = b""
        self._raw = False

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """Yield (bytes for the engine, whether they are one frame that begins a batch)."""
        if self._held:
            data = self._held + data
            self._held = b""
        if self._raw:
            yield data, False
            return
        may_hold_batch = _BATCH_BYTES in data
        done, position, size = 0, 0, len(data)
        while position + _HEADER_BYTES <= size:
            end = self._frame_end(data, position)
            if end is None:
                self._raw = True
                position = size
                break
            if end > size:
                break
            if may_hold_batch and _begins_batch(data[position:end]):
                if position > done:
                    yield data[done:position], False
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


def _begins_batch(frame: bytes) -> bool:
    body = frame[4] * 4
    if frame[body : body + 3] != _TRANSFER:
        return False
    try:
        performative = frame[: amqp.value_end(frame, body)]
        fields = amqp.items(performative, body + 3)
    except (amqp.MalformedMessage, IndexError):
        return False
    return (
        len(fields) > _MESSAGE_FORMAT_FIELD
        and amqp.number(fields[_MESSAGE_FORMAT_FIELD]) == BATCH_FORMAT
    )
