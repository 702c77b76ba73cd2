"""What is looked at all the time while faults are at work: epochs, slots, counters, new holders."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
from prometheus_client.parser import text_string_to_metric_families
from psycopg.rows import dict_row

from tests.chaos.fleet import Fleet
from tests.chaos.pacing import lasting
from tests.chaos.servers import Servers

EVERY_S = 0.2
_COUNTERS = {
    "bpa_leases_expired_total": "leases expired",
    "bpa_leases_fenced_total": "fenced reports",
    "bpa_steps_replayed_total": "answers replayed",
}
_LOOK = """
select
    (select coalesce(jsonb_object_agg(node_id, n), '{}')
     from (select node_id, count(*) as n from leases group by node_id) as by_node) as slots,
    (select coalesce(jsonb_object_agg(dep_id, n), '{}')
     from (select dep_id, count(*) as n from leases group by dep_id) as by_deployment) as deployed,
    (select coalesce(jsonb_object_agg(run_id, lease_epoch), '{}') from runs
     where ended_at is null or ended_at > now() - interval '5 s') as epochs
"""


@dataclass(slots=True)
class Watch:
    """Looks again and again, and keeps what must never be seen.

    Args:
        servers: Whose Postgres to read.
        fleet: Whose processes to ask.
    """

    servers: Servers
    fleet: Fleet
    looks: int = 0
    """How often Postgres could be read."""
    most_slots: Counter[str] = field(default_factory=Counter)
    """The most leases that a node was seen with."""
    violations: set[str] = field(default_factory=set)
    counted: Counter[str] = field(default_factory=Counter)
    """Of the processes' metrics, restarts bridged; what a killed one had not told is missing."""
    _epochs: dict[str, int] = field(default_factory=dict)
    _seen: dict[tuple[str, str], float] = field(default_factory=dict)

    @contextlib.asynccontextmanager
    async def looking(self) -> AsyncIterator[Watch]:
        """Look for as long as the context is open, and once more at its end."""
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self._run())
            yield self
            task.cancel()
        await self._look()

    async def _run(self) -> None:
        while True:
            await self._look()
            await lasting(EVERY_S)

    async def _look(self) -> None:
        await asyncio.gather(self._look_at_rows(), *map(self._look_at, self.fleet.every))

    async def _look_at_rows(self) -> None:
        try:
            row = await one_row(self.servers.postgres.dsn, _LOOK)
        except psycopg.OperationalError:
            return  # this may be the very fault
        self.looks += 1
        self._compare(row, self.fleet.slots)

    def _compare(self, row: dict[str, Any], slots: int) -> None:
        for node, used in row["slots"].items():
            self.most_slots[node] = max(self.most_slots[node], used)
            if used > slots:
                self.violations.add(f"{node} had {used} leases for {slots} slots")
        for deployment, used in row["deployed"].items():
            if used > 2 * slots:
                self.violations.add(f"{deployment} ran {used} at once, {2 * slots} are allowed")
        for run_id, epoch in row["epochs"].items():
            if epoch < self._epochs.get(run_id, 0):
                self.violations.add(f"run {run_id}: epoch {self._epochs[run_id]} fell to {epoch}")
            self._epochs[run_id] = epoch

    async def _look_at(self, one: Any) -> None:
        text = await self.fleet.metrics(one)
        if text is None:
            return
        state = await self.fleet.state(one) if one in self.fleet.nodes else None
        if state and state["slots_used"] > state["slots"]:
            self.violations.add(f"{one.name} worked on {state['slots_used']} at once")
        sums: Counter[str] = Counter()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name in _COUNTERS:
                    sums[sample.name] += sample.value
        for name, value in sums.items():
            before = self._seen.get((one.name, name), 0.0)
            self.counted[_COUNTERS[name]] += int(value - before if value >= before else value)
            self._seen[one.name, name] = value


async def rows(dsn: str, statement: str, **values: Any) -> list[dict[str, Any]]:
    """Read rows as a judge does: with a connection of its own."""
    async with await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, row_factory=dict_row, connect_timeout=5
    ) as connection:
        return await (await connection.execute(statement, values)).fetchall()


async def one_row(dsn: str, statement: str, **values: Any) -> dict[str, Any]:
    """Read the one row of a statement."""
    (row,) = await rows(dsn, statement, **values)
    return row


async def leased_again(
    servers: Servers, held: dict[str, int], within_s: float = 30.0
) -> list[float]:
    """Wait until each run has a lease under a later epoch, or has ended; return after how long.

    Raises:
        AssertionError: One did not ``within_s``.
    """
    began = time.monotonic()
    left = dict(held)
    moved_s: list[float] = []
    while left:
        with contextlib.suppress(psycopg.OperationalError):
            for row in await rows(servers.postgres.dsn, _MOVED, run_ids=list(left)):
                if row["ended"] or row["epoch"] > left[row["run_id"]]:
                    del left[row["run_id"]]
                    moved_s.append(time.monotonic() - began)
        took_s = time.monotonic() - began
        assert took_s < within_s, f"{len(left)} of {len(held)} runs are not leased again: {left}"
        if left:
            await lasting(0.05)
    return moved_s


_MOVED = """
select
    run_id::text as run_id,
    coalesce(leases.epoch, 0) as epoch,
    ended_at is not null as ended
from runs left join leases using (run_id)
where run_id = any(%(run_ids)s::uuid[])
"""
