"""Shares over the last minutes, in slots of time: bounded whatever happens. Pure."""

from __future__ import annotations

from collections import deque

WINDOW_S = 300.0
_SLOT_S = 10.0


class SuccessRate:
    """How much of what was tried in the window succeeded.

    Args:
        window_s: How far back, seconds; what is older is forgotten slot by slot.
    """

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._slots: deque[tuple[int, list[int]]] = deque(maxlen=int(window_s // _SLOT_S) + 1)
        self._window_s = window_s

    def note(self, now_s: float, *, succeeded: bool) -> None:
        """Count one."""
        slot = int(now_s // _SLOT_S)
        if not self._slots or self._slots[-1][0] != slot:
            self._slots.append((slot, [0, 0]))
        counts = self._slots[-1][1]
        counts[0] += succeeded
        counts[1] += 1

    def value(self, now_s: float) -> float | None:
        """Return the share, 0 to 1; None when nothing was tried in the window."""
        oldest = int((now_s - self._window_s) // _SLOT_S) + 1
        while self._slots and self._slots[0][0] < oldest:
            self._slots.popleft()
        tried = sum(counts[1] for _, counts in self._slots)
        return sum(counts[0] for _, counts in self._slots) / tried if tried else None


class Worst:
    """The largest value of the last one to two windows.

    Args:
        window_s: Seconds.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._since_s = float("-inf")
        self._before = self._now = 0.0

    def note(self, now_s: float, value: float) -> None:
        """Take a value."""
        self._turn(now_s)
        self._now = max(self._now, value)

    def value(self, now_s: float) -> float:
        """Return the largest."""
        self._turn(now_s)
        return max(self._before, self._now)

    def _turn(self, now_s: float) -> None:
        passed_s = now_s - self._since_s
        if passed_s >= self._window_s:
            self._before = self._now if passed_s < 2 * self._window_s else 0.0
            self._since_s, self._now = now_s, 0.0
