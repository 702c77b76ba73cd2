"""The reaper: ends what is over, in every control replica, by Postgres's own clock.

That is leases whose time has passed, and cancelled runs that their nodes did not end in time. A
pass also sends the offers that whoever granted them could not send.
"""

from __future__ import annotations

import asyncio
import random

import structlog

from bpa.control.leases import Leases
from bpa.control.offers import Offers
from bpa.control.runs import Runs
from bpa.errors import Unavailable
from bpa.telemetry.metrics import Metrics

_log = structlog.stdlib.get_logger(__name__)


class Reaper:
    """Repeats one pass at a jittered interval.

    Args:
        leases: Where lapsed leases are found and ended.
        offers: Where grants that nobody offered are.
        runs: Where cancelled runs are.
        metrics: Counts what lapsed.
        every_s: Seconds between two passes.
        cancel_grace_s: Seconds that a node has to end a cancelled run.
    """

    def __init__(
        self,
        leases: Leases,
        offers: Offers,
        runs: Runs,
        metrics: Metrics,
        *,
        every_s: float,
        cancel_grace_s: float,
    ) -> None:
        self._leases = leases
        self._offers = offers
        self._runs = runs
        self._metrics = metrics
        self._every_s = every_s
        self._cancel_grace_s = cancel_grace_s

    async def run(self) -> None:
        """Reap until cancelled; an outage of Postgres is waited out."""
        while True:
            try:
                await self.one_pass()
            except Unavailable as error:
                _log.warning("reaper_waits", error=str(error))
            await asyncio.sleep(self._every_s * (0.5 + random.random()))  # noqa: S311 - jitter

    async def one_pass(self) -> int:
        """End what is over, offer what nobody offered; return how many leases lapsed."""
        lapsed = await self._leases.reap()
        if lapsed:
            self._metrics.leases_expired.inc(lapsed)
            _log.warning("leases_expired", count=lapsed)
        cancelled = await self._runs.end_cancelled(self._cancel_grace_s)
        if cancelled:
            _log.info("runs_cancelled", count=cancelled)
        offered = await self._offers.offer_unanswered()
        if offered:
            _log.warning("offers_sent_late", count=offered)
        return lapsed
