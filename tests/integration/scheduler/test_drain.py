"""Planners that grant while a drain commits: what the drain has answered for, holds."""

import asyncio
from contextlib import AsyncExitStack

import msgspec
import pytest

from bpa.control.drains import Drains
from bpa.control.leases import Leases
from bpa.control.offers import Offers
from bpa.postgres import Pipeline
from bpa.scheduler import commit
from bpa.scheduler.commit import Obstacle
from bpa.scheduler.fleet import ALONE_FROM
from bpa.scheduler.holds import Hold
from bpa.scheduler.planner import plan
from bpa.telemetry.metrics import Metrics
from tests.eventually import eventually
from tests.integration.scheduler.conftest import replica_of

BLOCKED = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"


@pytest.fixture
async def drains(fleet):
    writes = Pipeline(fleet.pool)
    leases = Leases(
        fleet.pool,
        writes,
        15.0,
        Offers(fleet.pool, writes, 15.0, Metrics()),
    )
    yield Drains(fleet.pool, leases)
    await leases.aclose()
    await writes.aclose()


async def test_a_drain_waits_for_a_commit_and_takes_back_what_it_granted(fleet, replica, drains):
    await fleet.deployment()
    await fleet.node("n")
    runs = await fleet.runs(3)
    made = plan(await replica.reader.read())
    proposals = [commit._row(nth, proposal) for nth, proposal in enumerate(made.proposals)]
    async with replica.pool.connection() as connection, connection.transaction():
        locked = {"node_ids": '["n"]', "dep_ids": '["dep-1"]'}
        await connection.execute(commit.QUERIES.lock, locked)
        draining = asyncio.ensure_future(drains.drain("n", "test"))

        async def blocked():
            return await fleet.value(BLOCKED) == 1

        await eventually(blocked)
        granted = {
            "generation": str(made.hold_generation),
            "ttl_s": 15.0,
            "alone_from": ALONE_FROM,
            "proposals": msgspec.json.encode(proposals).decode(),
        }
        cursor = await connection.execute(commit.QUERIES.grant, granted)
        assert [row["refused"] for row in await cursor.fetchall()] == [None] * 3
        assert not draining.done()
    assert (await draining).taken_back == 3
    assert await fleet.leases_by("node_id") == {}
    assert await fleet.statuses() == {"queued": 3}
    epochs = await fleet.rows("select lease_epoch from runs")
    assert [row["lease_epoch"] for row in epochs] == [2] * len(runs)


async def test_a_plan_from_before_a_drain_is_refused_and_its_holds_given_back(
    fleet, replica, drains
):
    await fleet.deployment()
    await fleet.node("n")
    await fleet.runs(3)
    made = plan(await replica.reader.read())
    assert len(made.proposals) == 3
    await drains.drain("n", "test")
    refused = (await replica.committer.commit(made)).refused
    assert [one.obstacle for one in refused] == [Obstacle.NODE] * 3
    await drains.uncordon("n", "test")
    assert len((await replica.committer.commit(plan(await replica.reader.read()))).grants) == 3


async def test_racing_planners_leave_nothing_on_a_node_once_its_drain_was_answered(
    fleet, drains, database, valkey_url
):
    await fleet.deployment(budget=50)
    await fleet.node("leaves", 6)
    await fleet.node("stays", 2)
    await fleet.runs(12)
    seen = {"granted": 0, "taken_back": 0, "refused": 0}

    async def work(one, stop):
        while not stop.is_set():
            result = await one.committer.commit(plan(await one.reader.read()))
            seen["granted"] += sum(grant.node_id == "leaves" for grant in result.grants)
            seen["refused"] += sum(one.obstacle is Obstacle.NODE for one in result.refused)

    async with AsyncExitStack() as stack:
        replicas = [
            await stack.enter_async_context(replica_of(database, valkey_url)) for _ in range(2)
        ]
        await replicas[0].committer.refresh()
        for _ in range(15):
            stop, before = asyncio.Event(), seen["granted"]
            async with asyncio.TaskGroup() as group:
                workers = [group.create_task(work(one, stop)) for one in replicas]
                await eventually(lambda before=before: seen["granted"] > before)
                seen["taken_back"] += (await drains.drain("leaves", "test")).taken_back
                assert await left(fleet) == 0
                stop.set()
                await asyncio.wait(workers)
            assert await left(fleet) == 0, "a planner granted after the drain was answered"
            await drains.uncordon("leaves", "test")
            await begin_again(fleet, replicas)
    assert seen["granted"] == seen["taken_back"] >= 15, seen


async def left(fleet):
    return (await fleet.leases_by("node_id")).get("leaves", 0)


async def begin_again(fleet, replicas):
    rows = await fleet.rows("select run_id::text as run_id from runs")
    await fleet.rows("delete from leases")
    await fleet.rows("update runs set status = 'queued'")
    for one in replicas:
        one.holds.release(
            Hold(row["run_id"], node, "dep-1") for row in rows for node in ("leaves", "stays")
        )
