"""A lease in the node's hand: until when it is good, and what became of it.

Validity counts from the moment the node *sent* what control confirmed, never from the answer, on
a clock that runs on while the machine sleeps (I6). A lease ends once: ended by its execution, or
stopped from outside for one of the reasons in `Stop`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from bpa.domain.executions import LeaseOffer, Outcome
from bpa.domain.runs import RunId
from bpa.errors import Unavailable
from bpa.node.link import RECONNECT, Report
from bpa.retry import pause_s
from bpa.telemetry.spans import SpanContext

MARGIN = 1 / 8
"""Share of the TTL by which the node gives up before control's reaper may take the run away: time
to kill the sandbox, and for clocks that do not run alike."""


class Stop(StrEnum):
    """Why a running lease has to stop."""

    LOST = "lost"
    """Control says that it is no longer ours: nothing may be reported under it."""
    EXPIRED = "expired"
    """No renewal was confirmed in time: nothing may be sent out under it."""
    CANCELLED = "cancelled"
    """Somebody cancelled the run."""
    HAND_BACK = "hand_back"
    """The node drains, and the time for what it runs is over."""


def trace_id_of(offer: LeaseOffer) -> str:
    """Return the id of the run's trace, which every line about it carries; empty without one."""
    received = SpanContext.parse(offer.traceparent)
    return received.trace_id if received else ""


class Reports(Protocol):
    """Where reports go."""

    async def report(
        self, run_id: RunId | str, epoch: int, what: Report, *, gone: asyncio.Future[None]
    ) -> None:
        """Report once; see `bpa.node.link.ControlLink.report`."""


class HeldLease:
    """One offer that the node has taken.

    Args:
        offer: What control offered.
        reports: The link to control.
        clock: Seconds that count suspended time as well (CLOCK_BOOTTIME).
        draw: Draws the jitter of repeated reports from [0, 1).
    """

    def __init__(
        self,
        offer: LeaseOffer,
        *,
        reports: Reports,
        clock: Callable[[], float],
        draw: Callable[[], float],
    ) -> None:
        self.offer = offer
        self.run_id = RunId(offer.run.run_id)
        self.epoch = offer.epoch
        self.key = (offer.run.run_id, offer.epoch)
        self._reports = reports
        self._clock = clock
        self._draw = draw
        self._offered_at_s = clock()
        self._good_until_s: float | None = None
        loop = asyncio.get_running_loop()
        self.stopped: asyncio.Future[Stop] = loop.create_future()
        self.has_outcome = False
        """Whether the execution is over and only its report is under way: the slot is free."""
        self._gone: asyncio.Future[None] = loop.create_future()

    @property
    def acknowledged(self) -> bool:
        """Whether control has confirmed our acknowledgement."""
        return self._good_until_s is not None

    @property
    def is_good(self) -> bool:
        """Whether something may be started under this lease, right now."""
        return (
            not self.stopped.done()
            and self._good_until_s is not None
            and self._clock() < self._good_until_s
        )

    def confirm(self, sent_at_s: float) -> None:
        """Note that control confirmed what was sent at ``sent_at_s`` on the lease's clock."""
        good_until_s = sent_at_s + self.offer.ttl_s * (1 - MARGIN)
        if self._good_until_s is None or good_until_s > self._good_until_s:
            self._good_until_s = good_until_s

    def stop(self, why: Stop) -> None:
        """Ask the execution to stop, for the first reason that is given.

        Reports end with a lost lease, and with any reason while it is no more than an offer.
        """
        if not self.stopped.done():
            self.stopped.set_result(why)
        ours = self.acknowledged and why not in (Stop.LOST, Stop.EXPIRED)
        if not ours and not self._gone.done():
            self._gone.set_result(None)

    def check(self) -> None:
        """Stop the execution if no acknowledgement or renewal was confirmed in time."""
        good_until_s = self._good_until_s
        if good_until_s is None:
            good_until_s = self._offered_at_s + self.offer.ttl_s
        if self._clock() >= good_until_s:
            self.stop(Stop.EXPIRED)

    async def report(self, what: Report) -> None:
        """Report ``what`` until control has stored it.

        Raises:
            StaleLease: The lease is no longer ours.
            InvalidRequest: Control finds the report wrong.
        """
        self.has_outcome = self.has_outcome or isinstance(what, Outcome)
        tries = 0
        while True:
            tries += 1
            try:
                return await self._reports.report(self.run_id, self.epoch, what, gone=self._gone)
            except Unavailable:
                await asyncio.wait({self._gone}, timeout=pause_s(RECONNECT, tries, self._draw()))
