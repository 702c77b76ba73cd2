import asyncio
from contextlib import AsyncExitStack, suppress
from dataclasses import replace

import pytest

from bpa.scheduler.commit import Obstacle
from bpa.scheduler.holds import Hold
from bpa.scheduler.planner import plan
from tests.eventually import eventually
from tests.integration.scheduler.conftest import replica_of


async def planned(replica):
    return plan(await replica.reader.read())


def obstacles(result):
    return [refused.obstacle for refused in result.refused]


async def test_a_grant_gives_the_run_a_lease_under_a_new_epoch(fleet, replica):
    await fleet.deployment(cpu="100m", memory="1Mi")
    await fleet.node("n")
    [run_id] = await fleet.runs(1)
    await fleet.rows("update runs set waiting_reason = 'x', waiting_nodes = '{}', lease_epoch = 6")
    [grant] = (await replica.committer.commit(await planned(replica))).grants
    assert (grant.run_id, grant.node_id, grant.boot_id, grant.dep_id, grant.epoch) == (
        run_id,
        "n",
        "boot-1",
        "dep-1",
        7,
    )
    assert 59 < grant.waited_s < 90
    [run] = await fleet.rows("select * from runs")
    assert (run["status"], run["lease_epoch"], run["node_id"]) == ("offered", 7, "n")
    assert run["waiting_reason"] is None
    assert run["waiting_nodes"] is None
    assert run["started_at"] is not None
    assert run["executions"] == 0
    [lease] = await fleet.rows("select *, expires_at - granted_at as lasts from leases")
    assert (lease["epoch"], lease["boot_id"], lease["cpu_millis"]) == (7, "boot-1", 100)
    assert lease["memory_bytes"] == 2**20
    assert lease["acknowledged_at"] is None
    assert lease["lasts"].total_seconds() == 15


async def test_the_start_of_a_run_is_its_first_grant(fleet, replica):
    await fleet.deployment()
    await fleet.node()
    await fleet.runs(1)
    await fleet.rows("update runs set started_at = '2020-01-01'")
    await replica.committer.commit(await planned(replica))
    assert (await fleet.value("select started_at from runs")).year == 2020


@pytest.mark.parametrize(
    ("change", "obstacle"),
    [
        ("update nodes set cordoned_at = now()", Obstacle.NODE),
        ("update nodes set status = '{\"closing\": true}'", Obstacle.NODE),
        ("update nodes set boot_id = 'boot-2'", Obstacle.NODE),
        ("delete from nodes", Obstacle.NODE),
        ("update runs set status = 'dead_lettered'", Obstacle.RUN),
        ("update runs set not_before = now() + interval '1 minute'", Obstacle.RUN),
        ("update deployments set status = '{\"active\": false}'", Obstacle.DEPLOYMENT),
        ("update deployments set revision = 2", Obstacle.DEPLOYMENT),
        ("update settings set value = '99' where name = 'hold_generation'", Obstacle.GENERATION),
        ("update nodes set capacity = '{\"slots\": 0}'", Obstacle.FULL),
    ],
)
async def test_what_changed_between_plan_and_commit_is_refused(fleet, replica, change, obstacle):
    await fleet.deployment()
    await fleet.node()
    await fleet.runs(1)
    made = await planned(replica)
    await fleet.rows(change)
    result = await replica.committer.commit(made)
    assert not result.grants
    assert obstacles(result) == [obstacle]
    assert await fleet.leases_by("node_id") == {}


async def test_what_fits_is_granted_and_only_the_rest_refused(fleet, replica):
    await fleet.deployment(budget=20)
    await fleet.node("stays", 4)
    await fleet.node("leaves", 4)
    await fleet.runs(8)
    made = await planned(replica)
    await fleet.rows("update nodes set cordoned_at = now() where node_id = 'leaves'")
    result = await replica.committer.commit(made)
    assert {grant.node_id for grant in result.grants} == {"stays"}
    assert (len(result.grants), obstacles(result)) == (4, [Obstacle.NODE] * 4)
    await fleet.node("leaves", 4)
    await fleet.rows("update nodes set cordoned_at = null")
    again = await replica.committer.commit(await planned(replica))
    assert len(again.grants) == 4, "the holds of what was refused were given back"


async def test_postgres_alone_keeps_nodes_and_deployments_within_bounds(fleet, replica):
    await fleet.deployment("dep-1", budget=3)
    await fleet.deployment("dep-2", budget=50, cpu="500m")
    await fleet.node("n", 5, cpu_millis=1000)
    await fleet.runs(4, "dep-1")
    await fleet.runs(4, "dep-2")
    empty = await replica.reader.read()
    first = await replica.committer.commit(plan(empty))
    assert len(first.grants) == 5
    await fleet.runs(4, "dep-1")
    await fleet.runs(4, "dep-2")
    now = await replica.reader.read()
    lie = replace(now, nodes=empty.nodes, deployments=empty.deployments)
    assert len(plan(lie).proposals) == 5, "the plan believes that the fleet is empty"
    await replica.valkey.flushall()
    await replica.valkey.set("{bpa:holds}", now.hold_generation)  # and so does Valkey
    assert obstacles(await replica.committer.commit(plan(lie))) == [Obstacle.FULL] * 5
    assert await fleet.leases_by("dep_id") == {"dep-1": 3, "dep-2": 2}


async def test_a_batch_that_exceeds_all_bounds_is_cut_to_them(fleet, replica):
    await fleet.deployment("dep-1", budget=3)
    await fleet.deployment("dep-2", budget=50, cpu="500m", memory="1Mi")
    await fleet.node("n", 6, cpu_millis=1000, memory_bytes=2**30)
    await fleet.runs(6, "dep-1")
    await fleet.runs(6, "dep-2")
    seen = await replica.reader.read()
    limits = {dep_id: replace(d, slot_budget=99) for dep_id, d in seen.deployments.items()}
    [node] = seen.nodes
    boundless = replace(node, slots=99, cpu_millis=0, memory_bytes=0)
    made = plan(replace(seen, nodes=(boundless,), deployments=limits))
    proposals = [replace(p, deployment=seen.deployments[p.run.dep_id]) for p in made.proposals]
    await replica.committer.commit(replace(made, proposals=tuple(proposals)))
    leases = await fleet.leases_by("dep_id")
    assert sum(leases.values()) <= 6
    assert 0 < leases["dep-1"] <= 3
    assert 0 < leases["dep-2"] <= 2


async def test_racing_replicas_grant_each_run_once_and_exceed_nothing(
    fleet, replica, database, valkey_url
):
    await fleet.deployment("dep-1", budget=7)
    await fleet.deployment("dep-2", budget=50)
    for n in range(3):
        await fleet.node(f"node-{n}", 4)
    await fleet.runs(20, "dep-1")
    await fleet.runs(20, "dep-2")
    granted = []
    async with AsyncExitStack() as stack:
        replicas = [
            await stack.enter_async_context(replica_of(database, valkey_url)) for _ in range(3)
        ]
        for _ in range(6):
            plans = [await planned(one) for one in replicas]
            results = await asyncio.gather(
                *(one.committer.commit(made) for one, made in zip(replicas, plans, strict=True))
            )
            granted += [grant for result in results for grant in result.grants]
    assert len({grant.run_id for grant in granted}) == len(granted) == 12
    assert await fleet.leases_by("node_id") == {"node-0": 4, "node-1": 4, "node-2": 4}
    assert (await fleet.leases_by("dep_id"))["dep-1"] <= 7
    assert await fleet.statuses() == {"offered": 12, "queued": 28}


async def test_racing_replicas_exceed_nothing_when_each_has_a_valkey_that_knows_of_no_other(
    fleet, database, valkey_url
):
    await fleet.deployment("dep-1", budget=5)
    await fleet.deployment("dep-2", budget=500)
    await fleet.node("node-1", 6)
    await fleet.node("node-2", 3)
    granted = []
    async with AsyncExitStack() as stack:
        replicas = [
            await stack.enter_async_context(replica_of(database, f"{valkey_url}?db={n}"))
            for n in (1, 2, 3)
        ]
        for one in replicas:
            await one.valkey.set("{bpa:holds}", 1)
        for _ in range(15):
            await fleet.runs(18, "dep-1")
            await fleet.runs(18, "dep-2")
            seen = await replicas[0].reader.read()
            shares = [replace(seen, waiting=seen.waiting[n::3]) for n in range(3)]
            results = await asyncio.gather(
                *[
                    one.committer.commit(plan(share))
                    for one, share in zip(replicas, shares, strict=True)
                ]
            )
            round_ = [grant for result in results for grant in result.grants]
            by_node = await fleet.leases_by("node_id")
            assert by_node["node-1"] <= 6
            assert by_node["node-2"] <= 3
            assert (await fleet.leases_by("dep_id")).get("dep-1", 0) <= 5
            assert len(round_) == sum(by_node.values()) > 0
            granted += round_
            await fleet.finish(grant.run_id for grant in round_)
            for one in replicas:
                one.holds.release(Hold(g.run_id, g.node_id, g.dep_id) for g in round_)
    assert len({grant.run_id for grant in granted}) == len(granted)


async def test_racing_replicas_exceed_nothing_while_valkey_is_flushed_again_and_again(
    fleet, database, valkey_url
):
    await fleet.deployment("dep-1", budget=5)
    await fleet.deployment("dep-2", budget=50)
    await fleet.node("node-1", 6)
    await fleet.node("node-2", 3)
    await fleet.runs(20, "dep-1")
    await fleet.runs(20, "dep-2")
    granted = []

    async def work(one):
        for _ in range(25):
            granted.extend((await one.committer.commit(await planned(one))).grants)

    async def flush(one, stop):
        while not stop.is_set():
            await one.valkey.flushall()
            with suppress(TimeoutError):
                async with asyncio.timeout(0.005):
                    await stop.wait()

    async with AsyncExitStack() as stack:
        replicas = [
            await stack.enter_async_context(replica_of(database, valkey_url)) for _ in range(3)
        ]
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            flusher = group.create_task(flush(replicas[2], stop))
            workers = [group.create_task(work(one)) for one in replicas[:2]]
            await asyncio.wait(workers)
            stop.set()
            await flusher
        for one in replicas[:2]:
            await one.committer.refresh()
            granted.extend((await one.committer.commit(await planned(one))).grants)
    assert len({grant.run_id for grant in granted}) == len(granted) == 9
    assert await fleet.leases_by("node_id") == {"node-1": 6, "node-2": 3}
    assert (await fleet.leases_by("dep_id"))["dep-1"] <= 5


async def test_a_flushed_valkey_is_rebuilt_from_the_leases(fleet, replica):
    await fleet.deployment(budget=20)
    await fleet.node("n", 4)
    await fleet.runs(3)
    await replica.committer.commit(await planned(replica))
    await replica.valkey.flushall()
    await fleet.runs(3)
    lost = await replica.committer.commit(await planned(replica))
    assert obstacles(lost) == [Obstacle.GENERATION]
    made = await planned(replica)
    assert made.hold_generation > 1
    key = f"{{bpa:holds}}:{made.hold_generation}"
    assert await replica.valkey.zcard(f"{key}:node:n") == 3
    assert await replica.valkey.zcard(f"{key}:deployment:dep-1") == 3
    assert len((await replica.committer.commit(made)).grants) == 1


async def test_holds_of_another_time_are_not_believed_whichever_is_newer(fleet, replica):
    await fleet.deployment()
    await fleet.node()
    await fleet.runs(1)
    for present in ("0", "1000", "nonsense"):
        await replica.valkey.set("{bpa:holds}", present)
        assert obstacles(await replica.committer.commit(await planned(replica))) == ["generation"]
        generation = await fleet.value("select value from settings where name = 'hold_generation'")
        assert await replica.valkey.get("{bpa:holds}") == str(generation)
    assert len((await replica.committer.commit(await planned(replica))).grants) == 1


async def test_a_rebuild_that_comes_late_does_not_bring_back_an_older_generation(replica):
    assert await replica.holds.rebuild(8, [])
    assert not await replica.holds.rebuild(7, [])
    assert not await replica.holds.rebuild(8, [])
    assert await replica.valkey.get("{bpa:holds}") == "8"


async def test_a_slot_that_was_released_can_be_taken_by_the_next_commit(fleet, replica):
    await fleet.deployment()
    await fleet.node("n", 1)
    first, second = await fleet.runs(2)
    await replica.committer.commit(await planned(replica))
    await fleet.finish([first])
    blocked = await replica.committer.commit(await planned(replica))
    assert obstacles(blocked) == [Obstacle.FULL], "its hold is still there"
    replica.holds.release([Hold(first, "n", "dep-1")])
    [grant] = (await replica.committer.commit(await planned(replica))).grants
    assert grant.run_id == second


async def test_a_hold_that_nobody_prolongs_expires_and_never_ends_its_lease(
    fleet, database, valkey_url
):
    await fleet.deployment()
    await fleet.node("n", 2)
    await fleet.runs(1)
    async with replica_of(database, valkey_url, ttl_s=0.3) as one:
        await one.committer.refresh()
        await one.committer.commit(await planned(one))
        assert await one.committer.refresh() == 1
        [key] = await one.valkey.keys("*:node:n")

        async def is_gone():
            return not await one.valkey.exists(key)

        await eventually(is_gone)
        await one.committer.refresh()
        assert not await one.valkey.exists(key), "what is gone stays gone"
    assert await fleet.leases_by("node_id") == {"n": 1}


async def test_refreshing_prolongs_holds_and_does_not_bring_back_released_ones(fleet, replica):
    await fleet.deployment()
    await fleet.node("n", 4)
    kept, ended = await fleet.runs(2)
    made = await planned(replica)
    await replica.committer.commit(made)
    replica.holds.release([Hold(ended, "n", "dep-1")])
    await replica.committer.flush(made.hold_generation)
    key = f"{{bpa:holds}}:{made.hold_generation}:node:n"
    await replica.valkey.zadd(key, {f"{kept} dep-1": 1})
    assert await replica.committer.refresh() == 2, "its lease is still there"
    [(member, expiry_ms)] = await replica.valkey.zrange(key, 0, -1, withscores=True)
    assert member == f"{kept} dep-1"
    assert expiry_ms > 1e12


async def test_explanations_are_written_once_and_only_to_waiting_runs(fleet, replica):
    await fleet.deployment(affinity={"region": ["aus-east"]})
    await fleet.node("node-1", labels={"region": "eu-west"})
    gone, *_ = await fleet.runs(3)
    made = await planned(replica)
    await fleet.rows(
        "update runs set status = 'dead_lettered' where run_id = %(id)s::uuid", id=gone
    )
    assert await replica.committer.explain(made.unplaced) == 2
    rows = await fleet.rows(
        "select waiting_reason, waiting_nodes from runs where status = 'queued'"
    )
    assert [row["waiting_reason"] for row in rows] == [
        "no node has region in [aus-east]: node-1 region=eu-west"
    ] * 2
    assert rows[0]["waiting_nodes"] == {"node-1": "region=eu-west"}
    assert await replica.committer.explain((await planned(replica)).unplaced) == 0
    await fleet.node("node-2", labels={"region": "eu-north"})
    assert await replica.committer.explain((await planned(replica)).unplaced) == 2


async def test_a_run_that_lost_three_leases_is_granted_alone(fleet, replica):
    await fleet.deployment(budget=9)
    await fleet.node("n", 8)
    first, *others = await fleet.runs(3)
    await fleet.rows(f"update runs set infra_failures = 3 where run_id = '{first}'")
    result = await replica.committer.commit(await planned(replica))
    assert [grant.run_id for grant in result.grants] == [first]
    assert await fleet.value("select alone from leases")
    assert (await planned(replica)).proposals == ()
    await fleet.finish([first])
    replica.holds.release([Hold(first, "n", "dep-1")])
    result = await replica.committer.commit(await planned(replica))
    assert [grant.run_id for grant in result.grants] == others
    assert not await fleet.value("select bool_or(alone) from leases")


async def test_what_has_to_be_alone_is_judged_again_as_it_is_granted(fleet, replica):
    await fleet.deployment(budget=9)
    await fleet.node("n", 8)
    first, second, third = await fleet.runs(3)
    made = await planned(replica)
    assert len(made.proposals) == 3
    await fleet.rows(f"update runs set infra_failures = 3 where run_id = '{second}'")
    result = await replica.committer.commit(made)
    assert {grant.run_id for grant in result.grants} == {first}
    assert obstacles(result) == [Obstacle.FULL, Obstacle.FULL]
    await fleet.finish([first])
    await fleet.rows(f"update runs set infra_failures = 3 where run_id = '{third}'")
    replica.holds.release([Hold(first, "n", "dep-1")])
    result = await replica.committer.commit(made)
    assert {grant.run_id for grant in result.grants} == {second}
