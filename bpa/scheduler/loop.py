"""The scheduler's service: look, plan, commit, offer, explain; on a wake-up or every second.

Any number of replicas run it at once, each for the whole fleet. A wake-up comes from the process in
which something happened (:meth:`Scheduler.wake`), so no other needs one; those that come during a
pass make one more pass.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import structlog

from bpa.domain.runs import DeploymentId
from bpa.errors import Unavailable
from bpa.scheduler.breakers import Gate
from bpa.scheduler.commit import CommitResult, Committer, Grant, Obstacle, Refused
from bpa.scheduler.constraints import Why
from bpa.scheduler.holds import Hold, Holds
from bpa.scheduler.planner import Explanation, Plan, Proposal, Unplaced, plan
from bpa.scheduler.rooms import Room
from bpa.scheduler.rooms import rooms as rooms_of
from bpa.scheduler.snapshot import SnapshotReader

T = TypeVar("T")

_log = structlog.stdlib.get_logger(__name__)


class Offers(Protocol):
    """Where grants go."""

    async def offer(self, grants: Sequence[Grant]) -> None:
        """Send each run to its node."""


class Rooms(Protocol):
    """Who wants to know how much may be received."""

    def publish(self, rooms: Mapping[DeploymentId, Room]) -> None:
        """Take the room of each active deployment."""


class PlacementObserver(Protocol):
    """Who measures."""

    def placed(self, grants: Sequence[Grant]) -> None:
        """Take grants, each with how long its run waited."""

    def waiting(self, runs: Mapping[Why, int]) -> None:
        """Take how many runs wait for what."""

    def gated(self, gates: Iterable[Gate]) -> None:
        """Take the breakers that are not closed."""


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """How often the scheduler looks, and how hard it tries."""

    interval_s: float = 1.0
    """A pass at least this often: for back-offs that end and wake-ups that were lost."""
    explain_after_s: float = 0.25
    """Why a run waits is written down once it has waited this long: a run that is placed within
    milliseconds costs no write for that."""
    tries: int = 5
    """Commits in one pass without a single grant before the rest waits for the next pass."""

    def __post_init__(self) -> None:
        if self.interval_s <= 0 or self.tries < 1:
            raise ValueError("interval_s is above 0 and tries at least 1")


@dataclass(frozen=True, slots=True)
class PassResult:
    """What one pass came to."""

    granted: int = 0
    refused: int = 0
    """Proposals that were overtaken, each time counted."""
    unplaced: int = 0
    explained: int = 0
    """Runs whose reason to wait was written down anew."""


class Scheduler:
    """Places waiting runs for as long as :meth:`run` runs.

    Args:
        reader: Looks at the fleet.
        committer: Makes plans come true.
        holds: The slot holds, to give back those of ended runs.
        offers: Where grants go.
        rooms: Who wants to know how much may be received.
        observer: Who measures.
        config: How often, how hard.
        unfit: Says why this replica may place no run now, if so.
    """

    def __init__(
        self,
        reader: SnapshotReader,
        committer: Committer,
        holds: Holds,
        offers: Offers,
        rooms: Rooms,
        observer: PlacementObserver,
        config: SchedulerConfig | None = None,
        unfit: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._reader = reader
        self._committer = committer
        self._holds = holds
        self._offers = offers
        self._rooms = rooms
        self._observer = observer
        self._config = config or SchedulerConfig()
        self._unfit = unfit
        self._woken = asyncio.Event()
        self._held_up: frozenset[DeploymentId] = frozenset()
        self._failing: dict[str, str] = {}

    def wake(self) -> None:
        """Have a pass made soon: there is a new run, a free slot, another node."""
        self._woken.set()

    def arrived(self, dep_id: DeploymentId) -> None:
        """Have a pass made for a new run, unless runs of its deployment wait already.

        Those come first; what lets them start (a freed slot, a node) makes a pass of its own.
        """
        if dep_id not in self._held_up:
            self._woken.set()

    def freed(self, holds: Iterable[Hold]) -> None:
        """Give back the holds of runs whose leases have ended, and have a pass made."""
        self._holds.release(holds)
        self._woken.set()

    async def run(self) -> None:
        """Make passes for ever; while Postgres or Valkey is away, keep trying."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._refresh())
            group.create_task(self._pass())

    async def one_pass(self) -> PassResult:
        """Place what can be placed and say of the rest why it waits.

        Raises:
            Unavailable: Postgres or Valkey is away; what could not be placed says so if possible.
        """
        granted = refused = tries = 0
        while True:
            snapshot = await self._reader.read()
            made = plan(snapshot)
            result = await self._commit(made)
            granted, refused = granted + len(result.grants), refused + len(result.refused)
            tries = 0 if result.grants else tries + 1
            if not result.refused or tries == self._config.tries:
                break
        unplaced = [*made.unplaced, *map(_overtaken, result.refused)]
        self._observer.waiting(Counter(left.explanation.why for left in unplaced))
        self._observer.gated(d.gate for d in snapshot.deployments.values() if d.gate)
        self._held_up = frozenset(left.run.dep_id for left in made.unplaced)
        self._rooms.publish(rooms_of(snapshot, _came_true(made, result.grants)))
        told_before = snapshot.now - timedelta(seconds=self._config.explain_after_s)
        waiting = [left for left in unplaced if left.run.created_at <= told_before]
        explained = await self._committer.explain(waiting)
        await self._committer.flush(snapshot.hold_generation)
        return PassResult(granted, refused, len(unplaced), explained)

    async def _commit(self, made: Plan) -> CommitResult:
        try:
            if why := self._unfit():
                raise Unavailable(why)
            result = await self._committer.commit(made)
        except Unavailable as error:
            away = Explanation(Why.HOLDS, f"placing waits: {error}", {})
            held_up = [Unplaced(proposal.run, away) for proposal in made.proposals]
            await self._committer.explain([*made.unplaced, *held_up])
            raise
        if result.grants:
            self._observer.placed(result.grants)
            await self._offers.offer(result.grants)
        return result

    async def _pass(self) -> None:
        while True:
            self._woken.clear()
            result = await self._attempt("pass", self.one_pass())
            if result is None:
                await asyncio.sleep(self._config.interval_s)  # not on each wake-up of an outage
                continue
            if result.granted or result.refused or result.explained:
                _log.debug("planned", **_nonzero(result))
            try:
                async with asyncio.timeout(self._config.interval_s):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def _refresh(self) -> None:
        while True:
            await self._attempt("refresh", self._committer.refresh())
            await asyncio.sleep(self._holds.ttl_s / 3)

    async def _attempt(self, what: str, work: Coroutine[Any, Any, T]) -> T | None:
        """Run one pass; None if a store is away, which is logged when it begins and ends."""
        try:
            result = await work
        except Unavailable as error:
            if self._failing.get(what) != str(error):
                _log.warning("scheduler_waits", work=what, error=str(error))
            self._failing[what] = str(error)
            return None
        if self._failing.pop(what, None):
            _log.info("scheduler_goes_on", work=what)
        return result


def _came_true(made: Plan, grants: Sequence[Grant]) -> list[Proposal]:
    granted = {grant.run_id for grant in grants}
    return [proposal for proposal in made.proposals if proposal.run.run_id in granted]


_OVERTAKEN = {
    Obstacle.GENERATION: "slot holds are being rebuilt",
    Obstacle.RUN: "another replica has the run in hand",
    Obstacle.NODE: "its node left before the run was offered",
    Obstacle.DEPLOYMENT: "the deployment is being changed",
    Obstacle.FULL: "the slot it should have had was taken by another run",
}


def _overtaken(refused: Refused) -> Unplaced:
    text = f"to be placed again: {_OVERTAKEN[refused.obstacle]}"
    return Unplaced(refused.proposal.run, Explanation(Why.OVERTAKEN, text, {}))


def _nonzero(result: PassResult) -> dict[str, int]:
    return {name: count for name, count in asdict(result).items() if count}
