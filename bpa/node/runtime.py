"""The node's life: register, take leases, keep them alive, give them up, drain.

Four loops in one task group: the link's report stream, the intake of offers, the heartbeat, and a
watch that stops what was not renewed in time. Each execution is a task of an inner group, so that
the loops outlive the last of them. What a node does is decided here; how a run is executed is the
executor's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from bpa.clocks import boottime_s
from bpa.domain.executions import LeaseOffer
from bpa.domain.runs import RunId
from bpa.domain.specs import NodeSpec
from bpa.errors import BpaError, Conflict, NotFound
from bpa.node.lease import HeldLease, Stop, trace_id_of
from bpa.node.link import RECONNECT, Beat, Report, Terms
from bpa.protos.bpa.v1 import Acknowledge, Refuse
from bpa.retry import pause_s
from bpa.telemetry.spans import fields_of

_WATCH_EVERY_S = 0.5
_LOST = "control has another execution go on from the run's recorded steps"


class Link(Protocol):
    """What the runtime needs of `bpa.node.link.ControlLink`."""

    @property
    def node(self) -> NodeSpec:
        """What the node says of itself."""

    def clock_trouble(self) -> str | None:
        """Return what is wrong with our clock, if control says so."""

    async def run(self) -> None:
        """Keep the reports flowing until cancelled."""

    async def register(self) -> Terms:
        """Announce the node."""

    def pull(self) -> AsyncIterator[LeaseOffer]:
        """Yield offers until the stream breaks."""

    async def heartbeat(
        self, held: Sequence[tuple[str, int]], *, draining: bool, timeout_s: float
    ) -> Beat:
        """Renew leases."""

    async def report(
        self,
        run_id: RunId | str,
        epoch: int,
        what: Report,
        *,
        gone: asyncio.Future[None] | None = None,
    ) -> None:
        """Report once."""


class Executor(Protocol):
    """What the runtime needs of `bpa.node.executor.Executor`."""

    async def execute(self, lease: HeldLease) -> None:
        """Execute the run and report its outcome; heed ``lease.stopped``."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """What health checks and metrics want to know."""

    registered: bool
    cordoned: bool
    """An operator keeps new leases from it."""
    draining: bool
    """It is to become empty, by an operator's will or its own."""
    clock: str | None
    """What is wrong with its clock: then it takes no leases. Those it has go on, since they rest on
    a clock that nobody sets; the times in their steps and traces are as wrong as the clock."""
    slots: int
    slots_used: int
    held: tuple[tuple[str, int], ...]
    """(run id, epoch) of every lease in hand."""


class NodeRuntime:
    """One node at work.

    Args:
        link: To control; the runtime runs it, somebody else opens and closes it.
        executor: Executes a lease.
        log: Bound to the node.
        clock: The leases' clock, seconds, suspended time included.
        draw: Draws jitter from [0, 1).
        watch_every_s: How often leases are checked for their end.
    """

    def __init__(
        self,
        *,
        link: Link,
        executor: Executor,
        log: FilteringBoundLogger,
        clock: Callable[[], float] = boottime_s,
        draw: Callable[[], float] = random.random,
        watch_every_s: float = _WATCH_EVERY_S,
    ) -> None:
        self._link = link
        self._executor = executor
        self._log = log
        self._clock = clock
        self._draw = draw
        self._watch_every_s = watch_every_s
        self._slots = link.node.slots
        self._held: dict[str, HeldLease] = {}
        self._terms = Terms(heartbeat_every_s=3.0, lease_ttl_s=15.0)
        self._registered = False
        self._first_registered = asyncio.Event()
        self._known = asyncio.Event()
        self._cordoned = False
        self._clock_trouble: str | None = None
        self._drained_by_operator = False
        self._closing = asyncio.Event()
        self._drain_deadline_s = 0.0
        self._finished = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def state(self) -> NodeState:
        """The node at this moment."""
        return NodeState(
            registered=self._registered,
            cordoned=self._cordoned,
            draining=self._drained_by_operator or self._closing.is_set(),
            clock=self._link.clock_trouble(),
            slots=self._slots,
            slots_used=self._slots_used,
            held=tuple(lease.key for lease in self._held.values()),
        )

    async def registered(self) -> None:
        """Return once control knows the node."""
        await self._first_registered.wait()

    @property
    def _slots_used(self) -> int:
        # Control may offer the next run before the answer to an outcome has arrived here.
        return sum(not lease.has_outcome for lease in self._held.values())

    async def run(self) -> None:
        """Serve until `drain` is done."""
        try:
            async with asyncio.TaskGroup() as loops:
                tasks = [
                    loops.create_task(self._link.run()),
                    loops.create_task(self._beat()),
                    loops.create_task(self._watch()),
                ]
                async with asyncio.TaskGroup() as executions:
                    await self._take_leases(executions)
                    await self._wind_down()
                for task in tasks:
                    task.cancel()
        finally:
            self._finished.set()

    async def drain(self, deadline_s: float) -> None:
        """Take no more leases, let running ones end, hand back what is left after ``deadline_s``.

        Returns when `run` has ended; calling it again only waits.
        """
        if not self._closing.is_set():
            self._drain_deadline_s = deadline_s
            self._closing.set()
            self._log.info("node_draining", held=len(self._held), deadline_s=deadline_s)
        await self._finished.wait()

    # -- intake ------------------------------------------------------------------------------------

    async def _take_leases(self, executions: asyncio.TaskGroup) -> None:
        async with asyncio.TaskGroup() as group:
            intake = group.create_task(self._intake(executions))
            await self._closing.wait()
            intake.cancel()

    async def _intake(self, executions: asyncio.TaskGroup) -> None:
        failures = 0
        while True:
            try:
                await self._register()
                self._known.set()
                self._first_registered.set()
                self._log.info("node_registered", slots=self._slots)
                failures = 0
                async with aclosing(self._link.pull()) as offers:  # type: ignore[type-var]
                    async for offer in offers:
                        self._consider(offer, executions)
            except BpaError as error:
                self._registered = False
                failures += 1
                self._log.warning("node_not_registered", code=error.code, error=str(error))
            await asyncio.sleep(pause_s(RECONNECT, failures, self._draw()))

    def _consider(self, offer: LeaseOffer, executions: asyncio.TaskGroup) -> None:
        """Take an offer, or say why not; this is the last judge of the node's slots."""
        held = self._held.get(offer.run.run_id)
        if held is not None and held.epoch >= offer.epoch:
            return  # offered twice, because a stream broke: it is being worked on
        if held is not None and not held.has_outcome:
            held.stop(Stop.LOST)
            why = "an older execution of this run is still ending on the node"
        elif self._slots_used >= self._slots:
            why = f"all {self._slots} slots are taken"
        elif self._closing.is_set():  # of an operator's drain control knows more, and knows first
            why = "the node is closing"
        elif trouble := self._link.clock_trouble():
            why = trouble
        else:
            lease = HeldLease(offer, reports=self._link, clock=self._clock, draw=self._draw)
            self._held[lease.run_id] = lease
            self._idle.clear()
            executions.create_task(self._hold(lease))
            return
        executions.create_task(self._refuse(offer, why))

    async def _refuse(self, offer: LeaseOffer, why: str) -> None:
        log = self._of(offer)
        log.info("lease_refused", why=why)
        try:
            async with asyncio.timeout(offer.ttl_s):
                await self._link.report(offer.run.run_id, offer.epoch, Refuse(why=why))
        except TimeoutError:  # the offer has lapsed by itself
            log.warning("refusal_not_stored", code="unavailable")
        except BpaError as error:  # it will
            log.warning("refusal_not_stored", code=error.code)

    def _of(self, offer: LeaseOffer) -> FilteringBoundLogger:
        fields = fields_of(offer.run.run_id, trace_id_of(offer), "lease", offer.epoch)
        return self._log.bind(**fields, epoch=offer.epoch)

    async def _hold(self, lease: HeldLease) -> None:
        """Acknowledge, execute, let go."""
        log = self._of(lease.offer)
        sent_at_s = self._clock()
        try:
            await lease.report(Acknowledge())
            lease.confirm(sent_at_s)
            lease.check()
            await self._executor.execute(lease)
        except BpaError as error:  # whatever control finds wrong, it is this run's business alone
            log.warning("lease_lost", code=error.code, error=str(error), effect=_LOST)
        finally:
            if self._held.get(lease.run_id) is lease:
                del self._held[lease.run_id]
            if not self._held:
                self._idle.set()

    # -- upkeep ------------------------------------------------------------------------------------

    async def _until_the_next_beat(self, sent_at_s: float, failures: int) -> None:
        """Wait for the interval to pass; a drain that has just begun is told at once.

        It counts from the last beat, so that one without an answer costs no second interval; one
        that failed is tried again sooner, at another replica perhaps.
        """
        pause = self._terms.heartbeat_every_s - (self._clock() - sent_at_s)
        if failures:
            pause = min(pause_s(RECONNECT, failures, self._draw()), self._terms.heartbeat_every_s)
        if self._closing.is_set():
            await asyncio.sleep(pause)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._closing.wait()

    async def _beat(self) -> None:
        await self._known.wait()
        sent_at_s, failures = self._clock(), 0
        while True:
            await self._until_the_next_beat(sent_at_s, failures)
            in_hand = [lease.key for lease in self._held.values()]
            held = [lease for lease in self._held.values() if lease.acknowledged]
            sent_at_s = self._clock()
            try:
                beat = await self._link.heartbeat(
                    in_hand,  # what is not confirmed yet is not missing either
                    draining=self._closing.is_set() or self._link.clock_trouble() is not None,
                    timeout_s=self._terms.heartbeat_every_s,
                )
            except (NotFound, Conflict) as error:
                failures += 1
                self._log.warning("node_forgotten", code=error.code, error=str(error))
                await self._register_again()
                continue
            except BpaError as error:
                failures += 1
                self._log.warning("heartbeat_failed", code=error.code, error=str(error))
                continue
            failures = 0
            self._heed(beat, held, sent_at_s)
            self._tell_clock()

    async def _register_again(self) -> None:
        """Announce the node to a control that does not know it any more."""
        self._registered = False
        try:
            await self._register()
        except BpaError as error:  # the next heartbeat is the next try
            self._log.warning("node_not_registered", code=error.code, error=str(error))

    async def _register(self) -> None:
        self._terms = await self._link.register()
        self._registered = True
        self._heed_operator(cordoned=self._terms.cordoned, draining=self._terms.draining)

    def _heed(self, beat: Beat, held: list[HeldLease], sent_at_s: float) -> None:
        for lease in held:
            if lease.key in beat.renewed:
                lease.confirm(sent_at_s)
            if lease.run_id in beat.cancel:
                lease.stop(Stop.CANCELLED)
            if lease.key in beat.lost:
                lease.stop(Stop.LOST)
        self._heed_operator(cordoned=beat.cordoned, draining=beat.draining)
        if beat.hand_back:
            self._hand_back(held)

    def _heed_operator(self, *, cordoned: bool, draining: bool) -> None:
        """Note, and log when it changes, what holds for this node whatever its boot."""
        if cordoned != self._cordoned:
            self._cordoned = cordoned
            self._log.warning("node_cordoned" if cordoned else "node_uncordoned")
        if draining != self._drained_by_operator:
            self._drained_by_operator = draining
            self._log.warning("node_drain_asked" if draining else "node_drain_called_off")

    def _tell_clock(self) -> None:
        """Log when our clock begins to be wrong, and when it is right again."""
        trouble = self._link.clock_trouble()
        if trouble and not self._clock_trouble:
            self._log.error("clock_wrong", why=trouble, effect="this node takes no leases")
        elif self._clock_trouble and not trouble:
            self._log.info("clock_right", was=self._clock_trouble)
        self._clock_trouble = trouble

    async def _watch(self) -> None:
        """Stop what was not renewed in time, within half a second also after a suspend."""
        while True:
            await asyncio.sleep(self._watch_every_s)
            for lease in self._held.values():
                lease.check()

    async def _wind_down(self) -> None:
        """Wait for what still runs, then take it out of its hands."""
        try:
            async with asyncio.timeout(self._drain_deadline_s):
                await self._idle.wait()
        except TimeoutError:
            self._hand_back(list(self._held.values()))

    def _hand_back(self, held: list[HeldLease]) -> None:
        """Stop what still runs; its executor reports it as handed back."""
        left = [lease for lease in held if not lease.stopped.done() and not lease.has_outcome]
        if left:
            self._log.warning("drain_deadline_passed", handed_back=len(left))
        for lease in left:
            lease.stop(Stop.HAND_BACK)
