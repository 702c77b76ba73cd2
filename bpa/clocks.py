"""How far our clock is from somebody else's: bounds instead of guesses, and when they are too far.

What another clock said is kept relative to a clock of ours that nobody sets (it counts suspended
time too), so that a step of the wall clock shows at once, and so does its correction, without
asking again. A clock is called wrong only when it is wrong for certain: a slow answer widens the
bounds and raises no alarm. Pure: the clocks are parameters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

SHORTEST_LOCK_S = 5.0
"""Service Bus locks a message for 5 s at least, and for 5 min at most."""
LONGEST_LOCK_S = 300.0
SKEW_MAX_S = 3.0
"""How far a clock may be off unless a setting says otherwise."""
_KEPT_S = 600.0
"""Two good clocks drift apart by milliseconds in that time."""


@dataclass(frozen=True, slots=True)
class Offset:
    """How far another clock is ahead of ours, in seconds: somewhere within these bounds."""

    least_s: float
    most_s: float

    def shifted(self, by_s: float) -> Offset:
        """Return it as seen by a clock of ours that is ``by_s`` behind this one."""
        return Offset(self.least_s + by_s, self.most_s + by_s)

    def narrowed(self, other: Offset) -> Offset:
        """Return what both allow; where they contradict each other, ``other``."""
        both = Offset(max(self.least_s, other.least_s), min(self.most_s, other.most_s))
        return both if both.least_s <= both.most_s else other

    def excess_s(self, bound_s: float) -> float:
        """Return by how much we are off for certain; 0 within ``bound_s``, above 0 if behind."""
        if self.least_s > bound_s:
            return self.least_s
        return min(self.most_s, 0.0) if self.most_s < -bound_s else 0.0


def of_round_trip(sent_s: float, answered_s: float, told_s: float) -> Offset:
    """Return the bounds that an answer with a time in it gives.

    Args:
        sent_s: Our clock when the question left.
        answered_s: Our clock when the answer was there.
        told_s: The other clock, read at some moment in between.
    """
    return Offset(told_s - answered_s, told_s - sent_s)


def of_message(arrived_s: float, enqueued_s: float, locked_until_s: float) -> Offset:
    """Return the bound that a message of Service Bus gives, which tells no time directly.

    It was enqueued, and its lock, as long as a lock of Service Bus can be, had begun before it
    arrived. How long before, nobody knows: a busy process reads late, a frozen one very late. So
    it never says that we are ahead; a renewal of its lock does.

    Args:
        arrived_s: Our clock when it arrived.
        enqueued_s: The broker's time of its enqueueing.
        locked_until_s: The broker's time of the end of its lock.
    """
    return Offset(max(enqueued_s, locked_until_s - LONGEST_LOCK_S) - arrived_s, math.inf)


def of_renewal(sent_s: float, answered_s: float, locked_until_s: float) -> Offset:
    """Return the bounds that a renewed lock of Service Bus gives: it began anew in between.

    Args:
        sent_s: Our clock when the renewal left.
        answered_s: Our clock when its answer was there.
        locked_until_s: The broker's time of the end of the lock, as long as one can be.
    """
    return Offset(
        locked_until_s - LONGEST_LOCK_S - answered_s, locked_until_s - SHORTEST_LOCK_S - sent_s
    )


def boottime_s() -> float:
    """Return seconds since boot, suspended time included (CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Clocks:
    """What other clocks said, and whether ours is too far from one of them.

    Args:
        bound_s: How far ours may be off.
        wall: Our clock, seconds since the epoch.
        steady: Seconds of a clock that is never set and counts suspended time (CLOCK_BOOTTIME).
    """

    def __init__(
        self, bound_s: float, wall: Callable[[], float], steady: Callable[[], float]
    ) -> None:
        self._bound_s = bound_s
        self._wall = wall
        self._steady = steady
        self._heard: dict[str, tuple[float, Offset]] = {}

    def now_s(self) -> float:
        """Return our clock, for the arguments of ``of_round_trip`` and ``of_message``."""
        return self._wall()

    def heard(self, whose: str, offset: Offset) -> None:
        """Take what another clock just said; ``whose`` is its name, such as ``Postgres's``."""
        steady_s = self._steady()
        anchored = offset.shifted(self._wall() - steady_s)
        since_s, before = self._heard.get(whose, (steady_s, anchored))
        if steady_s - since_s > _KEPT_S:
            since_s, before = steady_s, anchored
        self._heard[whose] = since_s, before.narrowed(anchored)

    def trouble(self) -> str | None:
        """Return what is wrong with our clock and what to do, or None while it is right."""
        steady_s = self._steady()
        ours_s = self._wall() - steady_s
        for whose, (since_s, anchored) in self._heard.items():
            off_s = anchored.shifted(-ours_s).excess_s(self._bound_s)
            if off_s and steady_s - since_s <= _KEPT_S:
                where = "behind" if off_s > 0 else "ahead of"
                return (
                    f"our clock is {abs(off_s):.0f} s {where} {whose}, more than the "
                    f"{self._bound_s:g} s of control.clock_skew_max_s: synchronise it (NTP)"
                )
        return None
