"""Whatever writes runs and leases at once, on any replica, never waits in a circle."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import psycopg.errors
import pytest
from msgspec.structs import replace

from bpa.control.breakers import Breakers
from bpa.control.drains import Drains
from bpa.control.leases import Leases
from bpa.control.offers import Offers
from bpa.control.operating import Operating
from bpa.control.operation_terms import Act, Asked, Choice
from bpa.control.revisions import ANY, Edit, Revisions
from bpa.control.runs import Runs
from bpa.domain.executions import Outcome, OutcomeKind, TargetSeen
from bpa.domain.journal import Step, StepKind
from bpa.domain.runs import RunId
from bpa.domain.specs import Target
from bpa.errors import Conflict, Reason, StaleLease
from bpa.postgres import Pipeline, fetch_all, fetch_one, open_pool
from bpa.scheduler.commit import QUERIES as COMMIT
from bpa.telemetry.metrics import Metrics
from tests.eventually import eventually
from tests.integration.control.fleet import DEP_ID, DEPLOYMENT, Fleet
from tests.integration.control.rest import Rest, rest_over

RUNS = 24
ROUNDS = 3
EXPECTED = {StaleLease, Conflict}
DEADLOCKS = "select deadlocks from pg_stat_database where datname = current_database()"
WAITING = """
select count(distinct application_name) as n from pg_stat_activity
where datname = current_database() and wait_event_type = 'Lock'
"""


@asynccontextmanager
async def replica(database: str, name: str) -> AsyncIterator[tuple[Runs, Leases]]:
    pool = await open_pool(database, min_size=1, max_size=4, application_name=name)
    writes = Pipeline(pool)
    runs = Runs(pool, writes, Breakers(pool, Metrics()), name)
    leases = Leases(pool, writes, 15.0, Offers(pool, writes, 15.0, Metrics()))
    try:
        yield runs, leases
    finally:
        await runs.aclose()
        await leases.aclose()
        await writes.aclose()
        await pool.close()


async def deadlocks(database: str) -> int:
    """Read the counter on a connection of its own; backends that ended have added theirs."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        row = await (await connection.execute(DEADLOCKS)).fetchone()
    assert row is not None
    return int(row[0])


async def edits(runs: Runs, slots: range) -> None:
    """Edit the deployment again and again."""
    revisions = Revisions(runs._pool)
    for slot_budget in slots:
        spec = replace(DEPLOYMENT, target=Target(slot_budget=slot_budget))
        assert await revisions.edit(DEP_ID, Edit(spec=spec, actor="test"), ANY)


async def commits(runs: Runs, times: int) -> None:
    """Lock what a commit of placements locks, in a transaction each time."""
    values = {"node_ids": '["node-1"]', "dep_ids": f'["{DEP_ID}"]'}
    for _ in range(times):
        async with runs._pool.connection() as connection, connection.transaction():
            await connection.execute(COMMIT.lock, values)


async def failed_over(runs: Runs, held: list[tuple[RunId, int]]) -> None:
    """Report executions whose targets failed, at two hosts in turn."""
    for nth, (run_id, epoch) in enumerate(held):
        seen = TargetSeen(host=f"https://host-{nth % 2}:443", tries=4, error="HTTP 503")
        outcome = Outcome(
            kind=OutcomeKind.REJECTED, reason=Reason.RETRIES_EXHAUSTED, detail="", target=seen
        )
        await runs.finish(run_id, epoch, outcome)


async def cancels(rest: Rest, run_ids: list[RunId]) -> None:
    """Ask for two operations about the same runs, in opposite orders."""
    for ids in (tuple(run_ids), tuple(reversed(run_ids))):
        choice = Choice(said={}, ids=ids)
        asked = Asked(action=Act.CANCEL, choice=choice, actor="test")
        await rest.services.operations.start(asked)


async def everything_at_once(
    fleet: Fleet,
    one: tuple[Runs, Leases],
    two: tuple[Runs, Leases],
    numbers: range,
    rest: Rest,
    *,
    drained: bool = False,
) -> None:
    """Grant runs, then have two replicas write all of them in ways of their own, in any order."""
    run_ids = [await fleet.queued(number) for number in numbers]
    await cancels(rest, run_ids)
    held = [(run_id, await fleet.granted(run_id)) for run_id in run_ids]
    for run_id in run_ids[::3]:
        await fleet.expire(run_id)
    order = random.Random(numbers.start)

    def shuffled():
        return order.sample(held, len(held))

    step = Step(seq=0, kind=StepKind.MODEL, digest="d")
    work = []
    for nth, (runs, leases) in enumerate((one, two)):
        slots = range(numbers.start * 10 + nth * 5, numbers.start * 10 + nth * 5 + 5)
        operating = Operating(runs._pool, runs, rest.services.replaying, lambda: None)
        work += [edits(runs, slots), commits(runs, 5), failed_over(runs, shuffled()[:6])]
        work += [operating.one_pass() for _ in range(2)]
        work += [runs.hurry(run_id, "test") for run_id, _ in shuffled()[:4]]
        work += [leases.acknowledge(*lease) for lease in shuffled()]
        work += [runs.record_step(*lease, step) for lease in shuffled()]
        work += [leases.renew("node-1", "boot-1", shuffled()) for _ in range(3)]
        work += [runs.cancel(run_id, "test", "no more") for run_id, _ in shuffled()[:4]]
        work += [
            runs.finish(*lease, Outcome(kind=OutcomeKind.COMPLETED)) for lease in shuffled()[:12]
        ]
        work += [leases.reap()]
        if drained:
            work += [Drains(leases._pool, leases).drain("node-1", "test")]
    async with fleet.pool.connection() as blocker, blocker.transaction():
        middle = sorted(run_ids)[RUNS // 2]
        await blocker.execute("select 1 from runs where run_id = %s for update", (middle,))
        racing = asyncio.gather(*work, return_exceptions=True)

        async def both_replicas_wait():
            row = await fetch_one(fleet.pool, WAITING)
            return row == {"n": 2}

        await eventually(both_replicas_wait)
    odd = [r for r in await racing if isinstance(r, Exception) and type(r) not in EXPECTED]
    assert odd == []


async def test_writers_of_two_replicas_never_deadlock(fleet: Fleet, database: str):
    await fleet.register()
    async with (
        rest_over(fleet) as rest,
        replica(database, "one") as one,
        replica(database, "two") as two,
    ):
        for nth in range(ROUNDS):
            numbers = range(1 + nth * RUNS, 1 + (nth + 1) * RUNS)
            await everything_at_once(fleet, one, two, numbers, rest, drained=nth == ROUNDS - 1)
    assert await deadlocks(database) == 0
    ended = await fetch_all(fleet.pool, "select status, count(*) from runs group by status")
    assert len(ended) > 1, "the race came to nothing"
    left = "select count(*) as n from leases join runs using (run_id) where status = 'completed'"
    assert await fetch_one(fleet.pool, left) == {"n": 0}


async def test_the_counter_counts_a_deadlock(fleet: Fleet, database: str):
    """The control of the test above: what writes in opposite orders is caught by the counter."""
    lower, upper = sorted([await fleet.queued(1), await fleet.queued(2)])
    touch = "update runs set waiting_reason = 'x' where run_id = %s"
    connect = psycopg.AsyncConnection.connect
    async with await connect(database) as one, await connect(database) as two:
        await one.execute(touch, (lower,))
        await two.execute(touch, (upper,))
        both = (one.execute(touch, (upper,)), two.execute(touch, (lower,)))
        with pytest.raises(psycopg.errors.DeadlockDetected):
            await asyncio.gather(*both)
        await one.rollback()
        await two.rollback()
    await eventually(lambda: deadlocks(database))
