"""Runs of a target that fails are held back, but for one probe; then they ramp up."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from bpa.scheduler.constraints import Why
from bpa.scheduler.holds import Hold
from bpa.scheduler.planner import plan
from bpa.scheduler.rooms import room
from tests.integration.scheduler.conftest import replica_of

HOST = "http://target:80"


@pytest.fixture
async def outage(fleet, replica):
    """Two deployments of one host, whose breaker is open, with runs that wait."""
    for name in ("dep-1", "dep-2"):
        await fleet.deployment(name, budget=20)
    await fleet.node("n", 40)
    await fleet.runs(6, "dep-1")
    await fleet.runs(6, "dep-2")
    await breaker(fleet, probe_at="now() - interval '1 s'")
    return fleet


async def breaker(fleet, state="open", probe_at="now()", ramp=0):
    await fleet.rows(
        "insert into breakers (host, state, deployments, probe_at, ramp, last_error)"
        """ values (%(host)s, %(state)s, '{"dep-1": 1, "dep-2": 1}', """
        f"{probe_at}, %(ramp)s, 'HTTP 503')"
        " on conflict (host) do update set (state, probe_at, ramp) ="
        " row(excluded.state, excluded.probe_at, excluded.ramp)",
        host=HOST,
        state=state,
        ramp=ramp,
    )


async def schedule(replica):
    """Plan and commit until nothing more is granted; return the grants."""
    grants = []
    while True:
        result = await replica.committer.commit(plan(await replica.reader.read()))
        grants += result.grants
        if not result.grants:
            return grants


async def test_one_run_probes_an_open_host_and_the_others_say_why_they_wait(outage, replica):
    [probe] = await schedule(replica)
    [row] = await outage.rows("select probe_run::text as run, probe_epoch as epoch from breakers")
    assert (row["run"], row["epoch"]) == (probe.run_id, probe.epoch)
    made = plan(await replica.reader.read())
    assert {left.explanation.why for left in made.unplaced} == {Why.TARGET}
    assert len(made.unplaced) == 11
    [why] = {left.explanation.summary for left in made.unplaced}
    assert why.startswith(f"parked: target {HOST} fails (HTTP 503); probed next at 20")


async def test_no_run_probes_before_its_time(outage, replica):
    await breaker(outage, probe_at="now() + interval '1 minute'")
    assert await schedule(replica) == []


async def race(fleet, database, valkey_url, count):
    """Have replicas that saw the same commit a plan each, every one for a run of its own."""
    async with AsyncExitStack() as stack:
        replicas = [
            await stack.enter_async_context(replica_of(database, valkey_url)) for _ in range(count)
        ]
        await replicas[0].committer.refresh()
        seen = [await replica.reader.read() for replica in replicas]
        made = [
            plan(replace(snapshot, waiting=snapshot.waiting[n : n + 1]))
            for n, snapshot in enumerate(seen)
        ]
        assert len({one.proposals[0].run.run_id for one in made}) == count
        results = await asyncio.gather(
            *(replica.committer.commit(one) for replica, one in zip(replicas, made, strict=True))
        )
    return [grant for result in results for grant in result.grants]


async def test_of_replicas_that_race_for_the_probe_one_gets_it(outage, database, valkey_url):
    for _ in range(5):
        [probe] = await race(outage, database, valkey_url, 4)
        assert await outage.value("select probe_run::text from breakers") == probe.run_id
        await outage.finish([probe.run_id])


async def test_replicas_that_race_while_it_closes_keep_to_its_ramp(outage, database, valkey_url):
    await breaker(outage, "closing", ramp=2)
    assert len(await race(outage, database, valkey_url, 4)) == 2


async def test_a_probe_whose_lease_is_gone_makes_way_for_the_next(outage, replica):
    [first] = await schedule(replica)
    await outage.rows("delete from leases")
    await outage.rows(
        "update runs set status = 'queued', lease_epoch = lease_epoch + 1 where status = 'offered'"
    )
    replica.holds.release([Hold(first.run_id, first.node_id, first.dep_id)])
    [second] = await schedule(replica)
    assert (second.run_id, second.epoch) == (first.run_id, first.epoch + 2)


async def test_a_host_that_answers_again_gets_two_runs_then_four_then_all(outage, replica):
    await breaker(outage, "closing", ramp=2)
    granted = [await schedule(replica)]
    await breaker(outage, "closing", ramp=4)
    granted.append(await schedule(replica))
    made = plan(await replica.reader.read())
    assert {left.explanation.summary for left in made.unplaced} == {
        f"target {HOST} answers again: up to 4 runs at once for now"
    }
    await breaker(outage, "closed")
    granted.append(await schedule(replica))
    assert [len(grants) for grants in granted] == [2, 2, 8]
    assert {grant.dep_id for grant in granted[0]} == {"dep-1", "dep-2"}, "by turns"


async def test_a_deployment_that_was_changed_since_is_not_held_back(outage, replica):
    await outage.deployment("dep-2", budget=20)  # its revision is 2 now: it may post elsewhere
    grants = await schedule(replica)
    assert sorted(grant.dep_id for grant in grants) == ["dep-1"] + ["dep-2"] * 6


async def test_nothing_more_is_received_for_a_host_that_is_open(outage, replica):
    rooms = {dep: room(await replica.reader.read(), dep) for dep in ("dep-1", "dep-2")}
    assert rooms == {"dep-1": 0, "dep-2": 0}
    await breaker(outage, "closed")
    await schedule(replica)
    assert room(await replica.reader.read(), "dep-1") == 14


async def test_a_message_more_is_received_once_all_that_wait_have_failed_as_probes(outage, replica):
    await outage.rows("""update runs set parked = '{"probed": true}' where dep_id = 'dep-1'""")
    seen = await replica.reader.read()
    assert (room(seen, "dep-1"), room(seen, "dep-2")) == (1, 0)


async def test_what_a_changed_deployment_runs_elsewhere_takes_no_room_from_a_host_that_ramps_up(
    outage, replica
):
    await breaker(outage, "closing", ramp=2)
    await outage.rows("update deployments set revision = 2 where dep_id = 'dep-2'")
    backing_off = "update runs set not_before = now() + interval '1 h' where dep_id = 'dep-1'"
    await outage.rows(backing_off)
    assert [grant.dep_id for grant in await schedule(replica)] == ["dep-2"] * 6
    await outage.rows("update runs set not_before = null")
    assert [grant.dep_id for grant in await schedule(replica)] == ["dep-1"] * 2
