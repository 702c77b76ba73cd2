"""The reaper: ends leases that lapsed, in every control replica, by Postgres's own clock."""

from __future__ import annotations

import asyncio
import random

import structlog

from bpa.control.leases import Leases
from bpa.errors import Unavailable
from bpa.telemetry import Metrics

_log = structlog.stdlib.get_logger(__name__)


class Reaper:
    """Repeats one pass at a jittered interval.

    Args:
        leases: Where lapsed leases are found and ended.
        metrics: Counts what lapsed.
        every_s: Seconds between two passes.
    """

    def __init__(self, leases: Leases, metrics: Metrics, every_s: float) -> None:
        self._leases = leases
        self._metrics = metrics
        self._every_s = every_s

    async def run(self) -> None:
        """Reap until cancelled; an outage of Postgres is waited out."""
        while True:
            try:
                await self.one_pass()
            except Unavailable as error:
                _log.warning("reaper_waits", error=str(error))
            await asyncio.sleep(self._every_s * (0.5 + random.random()))  # noqa: S311 - jitter

    async def one_pass(self) -> int:
        """End what has lapsed and return how many leases that were."""
        lapsed = await self._leases.reap()
        if lapsed:
            self._metrics.leases_expired.inc(lapsed)
            _log.warning("leases_expired", count=lapsed)
        return lapsed
