"""What is due when: a heap of times, each of which can be moved or called off. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

_STALE = 1000

Key = TypeVar("Key", bound=Hashable)


class Deadlines(Generic[Key]):
    """One time in ms for each key."""

    def __init__(self) -> None:
        self._due: dict[Key, int] = {}
        self._heap: list[tuple[int, Key]] = []

    def set(self, key: Key, at_ms: int) -> bool:
        """Make a key due at a time, whenever it was due before; say whether it is the first."""
        self._due[key] = at_ms
        if len(self._heap) > 2 * len(self._due) + _STALE:
            self._heap = [(due_ms, held) for held, due_ms in self._due.items()]
            heapify(self._heap)
        else:
            heappush(self._heap, (at_ms, key))
        return self._heap[0][1] == key

    def drop(self, key: Key) -> None:
        """Call a key off, if it is due at all."""
        self._due.pop(key, None)

    def pop(self, now_ms: int) -> Key | None:
        """Return a key whose time has come and forget it; None when there is no further one."""
        while self._heap and self._heap[0][0] <= now_ms:
            at_ms, key = heappop(self._heap)
            if self._due.get(key) == at_ms:
                del self._due[key]
                return key
        return None

    def first_ms(self) -> int | None:
        """Return when something may be due next; it may have been called off since."""
        return self._heap[0][0] if self._heap else None
