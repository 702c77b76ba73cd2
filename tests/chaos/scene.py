"""One stage on which cases are played: servers, fleet, load, watch; and what a case is."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from tests.chaos.fleet import Fleet, Supervised
from tests.chaos.judges import Verdict, judge, remainder
from tests.chaos.load import Load
from tests.chaos.servers import Servers
from tests.chaos.watch import Watch, rows
from tests.eventually import eventually

SLOTS = 6
"""Of each node, unless a case says otherwise."""
TTL_S = 3.0
"""Of a lease, unless a case says otherwise."""
DEFAULTS: Mapping[str, str] = {"control.lease_ttl_s": "15", "control.heartbeat_every_s": "5"}
"""What operators have, for the figures that are promised of it."""
QUICK: Mapping[str, str] = {"control.lease_ttl_s": f"{TTL_S:g}", "control.heartbeat_every_s": "0.5"}
_HELD = """
select run_id::text as run_id, epoch from leases
where node_id = %(node_id)s and acknowledged_at is not null and expires_at > now()
"""
_OWNED = """
select count(*) as n from deliveries join runs using (run_id)
where owner = %(owner)s and settled_at is null and ended_at is null
"""
_LEASES = "select count(*) as n from leases where acknowledged_at is not null"
_TAKEN_OVER = """
select count(*) as n from deliveries as later
join deliveries as earlier using (run_id)
where later.delivery_id > earlier.delivery_id
    and earlier.owner = %(owner)s
    and later.owner <> %(owner)s
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of harm, done to a fleet at work."""

    name: str
    harm: Callable[[Act], Awaitable[None]]
    """Does it while messages come in; it notes with ``act.bit`` what it found to bite into."""
    bites: tuple[str, ...]
    """The faults that must have bitten at least once each, or the case is invalid."""
    is_short: bool = False
    """Whether it is part of ``make test``."""
    messages: int = 40
    """So many at least; they come in for as long as the harm is done."""
    per_s: float = 8.0
    model_ms: float = 800.0
    """What the model call of a run takes; it keeps most of one node's slots busy."""
    slots: int = SLOTS
    drained_within_s: float = 60.0
    """How soon after the harm all must be done."""
    settings: Mapping[str, str] = field(default_factory=lambda: QUICK)

    @property
    def sentence(self) -> str:
        """What it does, as its function's docstring says."""
        return (self.harm.__doc__ or "").strip().partition("\n")[0]


class Act:
    """A case being played."""

    def __init__(self, case: Case, scene: Scene, rng: random.Random, prefix: str) -> None:
        self.case = case
        self.rng = rng
        self.prefix = prefix
        self.servers = scene.servers
        self.fleet = scene.fleet
        self.load = Load(
            self.servers.bus_by(self.servers.bus_port), prefix, case.messages, case.per_s
        )
        self.watch = Watch(self.servers, self.fleet)
        self.bitten: Counter[str] = Counter()
        self.figures: dict[str, float] = {}

    def bit(self, fault: str, into: int = 1) -> None:
        """Count a fault by what it bit into; into nothing is no bite."""
        self.bitten[fault] += into

    def note_most(self, figure: str, *values: float) -> None:
        """Keep the largest of a figure's values."""
        self.figures[figure] = round(max(*values, self.figures.get(figure, 0.0)), 2)

    def count(self, figure: str) -> None:
        """Count a figure up."""
        self.figures[figure] = self.figures.get(figure, 0) + 1

    async def at_work(self, least: int = 2, within_s: float = 30.0) -> int:
        """Wait until there are so many acknowledged leases; return how many."""

        async def probe() -> int:
            try:
                (row,) = await rows(self.servers.postgres.dsn, _LEASES)
            except psycopg.OperationalError as error:
                raise AssertionError(f"Postgres does not answer the judge: {error}") from error
            assert row["n"] >= least, f"{row['n']} runs are at work"
            return int(row["n"])

        return await eventually(probe, within_s=within_s, every_s=0.05)

    async def deliveries_of_others(self, control: Supervised) -> int:
        """Count the messages that another control was given after this one."""
        (row,) = await rows(self.servers.postgres.dsn, _TAKEN_OVER, owner=control.name)
        return int(row["n"])

    async def held_by(self, node: Supervised) -> dict[str, int]:
        """Return the runs that a node has acknowledged leases of, with their epochs."""
        found = await rows(self.servers.postgres.dsn, _HELD, node_id=node.name)
        return {row["run_id"]: row["epoch"] for row in found}

    async def owned_by(self, control: Supervised) -> int:
        """Return how many messages of living runs a control has received and not settled."""
        (row,) = await rows(self.servers.postgres.dsn, _OWNED, owner=control.name)
        return int(row["n"])

    async def busy(
        self, node: Supervised, least: int = 2, within_s: float = 30.0
    ) -> dict[str, int]:
        """Wait until a node has so many leases; return them."""

        async def probe() -> dict[str, int]:
            held = await self.held_by(node)
            assert len(held) >= least, f"{node.name} holds {len(held)} leases only"
            return held

        return await eventually(probe, within_s=within_s, every_s=0.05)

    async def receiving(self, control: Supervised, least: int = 1, within_s: float = 30.0) -> int:
        """Wait until a control has so many messages to settle; return how many."""

        async def probe() -> int:
            owned = await self.owned_by(control)
            assert owned >= least, f"{control.name} owns {owned} messages only"
            return owned

        return await eventually(probe, within_s=within_s, every_s=0.05)

    async def queue(self) -> dict[str, Any]:
        """Return the broker's counts."""
        (queue,) = (await self.servers.get(f"{self.servers.bus_admin_url}/queues"))["queues"]
        return dict(queue)


class Scene:
    """The stage.

    Args:
        directory: For data and logs.
        settings: Of the platform's processes.
        slots: Of each node.
    """

    def __init__(
        self, directory: Path, settings: Mapping[str, str] = QUICK, slots: int = SLOTS
    ) -> None:
        self.servers = Servers(directory / "servers")
        self.fleet = Fleet(directory, self.servers, settings, slots)
        self._acts = 0

    @contextlib.asynccontextmanager
    async def set_up(self) -> AsyncIterator[Scene]:
        """Run servers and fleet."""
        async with self.servers.running(), self.fleet.running():
            yield self

    async def play(self, case: Case, seed: int) -> Verdict:
        """Play a case on a fleet that is whole, and judge."""
        self._acts += 1
        act = Act(case, self, random.Random(seed), f"{case.name}-{seed}-{self._acts}-")
        await self.fleet.whole()
        lines_before = [len(one.ended_by_itself) for one in self.fleet.every]
        await self._slow_model(case.model_ms)
        began = time.monotonic()
        async with act.watch.looking():
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(act.load.run())
                await case.harm(act)
                act.load.enough()
                harmed_s = time.monotonic() - began
            sent_s = time.monotonic() - began
            await self._drained(act)
            drained_s = time.monotonic() - began
        await self.fleet.whole()
        await self._slow_model(0)
        verdict = await judge(self.servers, act.load, act.watch, act.prefix)
        self._bites(act, verdict)
        for one, before in zip(self.fleet.every, lines_before, strict=True):
            for how in one.ended_by_itself[before:]:
                verdict.must(False, f"a process ended by itself: {how}")
        verdict.figures |= {
            **act.figures,
            "harm, s": round(harmed_s, 1),
            "drained after it, s": round(drained_s - max(harmed_s, sent_s), 1),
        }
        return verdict

    def _bites(self, act: Act, verdict: Verdict) -> None:
        for fault in act.case.bites:
            verdict.must(act.bitten[fault] > 0, f"INVALID: {fault!r} never bit")
        verdict.figures |= {f"bit: {fault}": count for fault, count in act.bitten.items()}

    async def _slow_model(self, latency_ms: float) -> None:
        rules = [{"latency_ms": latency_ms}] if latency_ms else []
        await self.servers.script(f"{self.servers.model_url}/_stub/script", rules)

    async def _drained(self, act: Act) -> None:
        async def probe() -> bool:
            left = await remainder(self.servers, act.load, act.prefix)
            assert left.is_nothing, (
                f"in the queue {left.in_queue}, without a run {left.missing}, "
                f"not ended {len(left.living)}: {left.living[:5]}"
            )
            return True

        await eventually(probe, within_s=act.case.drained_within_s, every_s=0.1)
