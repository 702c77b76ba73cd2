"""What nobody reports: how late the loop is, and whatever else is to be looked at."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from bpa.telemetry.metrics import Metrics
from bpa.telemetry.rates import Worst

_EVERY_S = 0.25
_WINDOW_S = 15.0
"""Of the worst lag, which is of this and the window before: a scrape every 30 s sees each."""
_LOOKS_EVERY = 4


class Pulse:
    """Looks a few times a second until cancelled.

    Args:
        metrics: Where it is shown: all that the process measures.
        clock: Monotonic seconds.
    """

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self.metrics = metrics
        self._looks: list[Callable[[], None]] = []
        self._clock = clock
        self._worst = Worst(_WINDOW_S)

    def look(self, look: Callable[[], None]) -> None:
        """Have gauges set once a second; ``look`` is quick and does not fail."""
        self._looks.append(look)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            for _ in range(_LOOKS_EVERY):
                due_s = self._clock() + _EVERY_S
                await asyncio.sleep(_EVERY_S)
                self.late(due_s, self._clock())
            for look in self._looks:
                look()

    def late(self, due_s: float, now_s: float) -> None:
        """Take when the loop should have come round, and when it did."""
        self._worst.note(now_s, max(0.0, now_s - due_s))
        self.metrics.loop_lag_s.set(self._worst.value(now_s))
