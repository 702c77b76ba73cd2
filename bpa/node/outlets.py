"""What a broker is made of: the shared outlets, and one execution's recorder and clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from bpa.connectors.sdk import Sink
from bpa.domain.executions import BudgetKind, LeaseOffer
from bpa.domain.journal import Step, StepKind, Usage
from bpa.errors import StaleLease
from bpa.node.breakers import Breakers
from bpa.node.journal import Journal
from bpa.node.model_calls import ModelCalls
from bpa.node.pricing import Prices


class Measures(Protocol):
    """What is counted; see ``bpa.telemetry``."""

    def model_asked(self, agent: str, model: str) -> None:
        """Take that a model is asked."""

    def model_answered(self, agent: str, model: str, usage: Usage) -> None:
        """Count the tokens and USD of a live model call."""

    def step_replayed(self, kind: StepKind) -> None:
        """Count an answer that came from the journal."""

    def budget_exceeded(self, kind: BudgetKind) -> None:
        """Count a call that did not fit."""


class Lease(Protocol):
    """What the broker needs of `bpa.node.lease.HeldLease`."""

    offer: LeaseOffer

    @property
    def stopped(self) -> asyncio.Future[Any]:
        """Done once nothing more may be started under the lease."""

    @property
    def is_good(self) -> bool:
        """Whether something may be started under the lease."""

    async def report(self, what: Step) -> None:
        """Report until control has stored it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlets:
    """What every run's broker shares."""

    models: ModelCalls
    sink: Sink
    prices: Prices
    measures: Measures
    breakers: Breakers = field(default_factory=Breakers)
    target_url: str = ""
    """Where effects go for deployments that name no address of their own."""


@dataclass(slots=True)
class Timings:
    """Milliseconds that an execution spent outside."""

    ms: dict[str, float] = field(default_factory=dict)

    def add(self, stage: str, started_s: float) -> None:
        """Add what has passed since ``started_s`` on the monotonic clock."""
        passed_ms = (time.monotonic() - started_s) * 1000
        self.ms[stage] = round(self.ms.get(stage, 0.0) + passed_ms, 3)


class Recorder:
    """One execution's journal, written through control under its lease."""

    def __init__(self, lease: Lease) -> None:
        self.journal = Journal(lease.offer.run.journal)
        self._lease = lease

    async def intend(self, step: Step) -> None:
        """Commit an intent, before anything is sent because of it.

        Raises:
            StaleLease: The lease is no longer ours, or has to stop.
        """
        self.must_hold()
        await self.settle(step)

    async def settle(self, step: Step) -> None:
        """Commit what a call came to, before anybody hears of it; also while the run stops.

        Raises:
            StaleLease: The lease is no longer ours.
        """
        await self._lease.report(step)
        self.journal.record(step)

    def must_hold(self) -> None:
        """Check that something may be started, right now.

        Raises:
            StaleLease: The lease has run out.
        """
        if not self._lease.is_good:
            raise StaleLease("the lease has ended; nothing more is started under it")

    async def while_held(self, pause: Coroutine[Any, Any, None]) -> None:
        """Wait for the end of a pause; of the lease, if that comes first."""
        pausing = asyncio.ensure_future(pause)
        try:
            await asyncio.wait({pausing, self._lease.stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pausing.cancel()


def answered(intent: Step, answer: bytes, usage: Usage) -> Step:
    """Return the step with its answer, as of now."""
    return msgspec.structs.replace(intent, answer=answer, usage=usage, ended_at_ms=now_ms())


def now_ms() -> int:
    """Return the wall clock in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
