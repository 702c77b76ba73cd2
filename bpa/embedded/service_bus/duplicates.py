"""Which message ids a queue has accepted within its window, to drop what is sent again. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from . import records
from .content import Content, duplicate_key
from .records import KeptQueue


class Duplicates:
    """The history of one queue.

    An id counts from when it was first accepted; a duplicate does not prolong it.

    Args:
        path: The queue's name in the journal.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen: dict[bytes, tuple[int, int]] = {}

    def find(self, content: Content, now_ms: int, window_s: float) -> int | None:
        """Return the number under which a message of this id was accepted within the window."""
        self._forget(now_ms - int(window_s * 1000))
        seen = self._seen.get(duplicate_key(content))
        return None if seen is None else seen[1]

    def add(self, content: Content, at_ms: int, sequence: int) -> None:
        """Note that a message was accepted at a time, under a sequence number."""
        self._seen[duplicate_key(content)] = at_ms, sequence

    def restore(self, kept: KeptQueue) -> None:
        """Take in what a journal kept."""
        self._seen = dict(sorted(kept.seen.items(), key=lambda item: item[1]))

    def snapshot(self) -> Iterator[bytes]:
        """Return records from which the history can be restored as it is now."""
        known = list(self._seen.items())
        return (records.seen(self._path, key, *seen) for key, seen in known)

    def _forget(self, until_ms: int) -> None:
        while self._seen:
            oldest = next(iter(self._seen))
            if self._seen[oldest][0] > until_ms:
                return
            del self._seen[oldest]
