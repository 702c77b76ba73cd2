"""How far the dead letters of one queue are known. Pure.

A dead letter keeps its sequence number, so a new one may have a lower number than many that are
there. But it was in the queue before: when the oldest message of a queue is number n, whatever lies
below n has left it, and can never be buried any more. So a sweep that has read all letters need not
read those below n again. One sweep of grace is given, for a letter that is on its way from the
queue to its dead letters is in neither.

``docs/decisions/0016-a-sweep-reads-what-may-be-new.md`` has the argument, and what it costs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

_PARTITION_SHIFT = 48
"""A partitioned queue keeps the partition above these bits; its numbers tell no order."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What is known after a sweep, to begin the next one with."""

    new_from: int = 0
    """No letter below this number is new."""
    passed: int = 0
    """Every number below this one had left the queue when the sweep began."""
    highest: int = 0
    """The highest number that any sweep has seen: the broker has given out all up to it."""
    checked_to: int = 0
    """How far the letters below ``new_from`` have been read again, a few with each sweep."""

    def begin(self, oldest: int | None) -> Mark:
        """Return the mark to read by, given the queue's oldest message (None: it is empty).

        Numbers that have begun anew are those of another queue under the same name.
        """
        return Mark() if oldest is not None and oldest < self.new_from else self

    def end(self, oldest: int | None, highest: int) -> Mark:
        """Return the mark after everything from ``new_from`` on was read.

        Args:
            oldest: The queue's oldest message before the reading began.
            highest: The highest number among the letters that were read, 0 if there were none.
        """
        if max(oldest or 0, highest) >> _PARTITION_SHIFT:
            return Mark()
        passed = oldest if oldest is not None else max(self.passed, self.highest + 1)
        return replace(
            self,
            new_from=min(self.passed, passed),
            passed=passed,
            highest=max(self.highest, highest),
        )

    def checked(self, last: int | None) -> Mark:
        """Return the mark after letters below ``new_from`` were read again, up to ``last``.

        None: there are no more, and the next check begins at the first.
        """
        return replace(self, checked_to=0 if last is None else last + 1)
