import asyncio
from collections import Counter
from contextlib import asynccontextmanager

import pytest

from bpa.embedded.valkey import EmbeddedValkey
from bpa.errors import Unavailable
from bpa.scheduler.constraints import Why
from bpa.scheduler.holds import Hold
from bpa.scheduler.loop import PassResult, Scheduler, SchedulerConfig
from tests.eventually import eventually
from tests.integration.scheduler.conftest import replica_of


class Control:
    """What the scheduler tells others, remembered."""

    def __init__(self):
        self.offered = []
        self.rooms = {}
        self.waited_s = []
        self.waits = {}

    async def offer(self, grants):
        self.offered += grants

    def publish(self, rooms):
        self.rooms = {dep_id: room.runs for dep_id, room in rooms.items()}

    def placed(self, grants):
        self.waited_s += [grant.waited_s for grant in grants]

    def gated(self, gates):
        """Take breakers."""

    def waiting(self, runs):
        self.waits = dict(runs)


def scheduler_of(replica, control, **config):
    return Scheduler(
        replica.reader,
        replica.committer,
        replica.holds,
        control,
        control,
        control,
        SchedulerConfig(**{"explain_after_s": 0.0, **config}),
    )


@asynccontextmanager
async def running(*services):
    tasks = [asyncio.ensure_future(service.run()) for service in services]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results), results


@pytest.fixture
def control():
    return Control()


@pytest.fixture
def scheduler(replica, control):
    return scheduler_of(replica, control)


async def test_a_pass_places_what_fits_offers_it_and_explains_the_rest(fleet, scheduler, control):
    await fleet.deployment(budget=3)
    await fleet.node()
    ids = await fleet.runs(5)
    assert await scheduler.one_pass() == PassResult(granted=3, unplaced=2, explained=2)
    assert [grant.run_id for grant in control.offered] == ids[:3]
    assert len(control.waited_s) == 3
    assert control.waits == {Why.SLOT_BUDGET: 2}
    reasons = await fleet.rows("select waiting_reason from runs where status = 'queued'")
    assert {row["waiting_reason"] for row in reasons} == {"slot budget of 3 is used"}
    assert await scheduler.one_pass() == PassResult(unplaced=2)


async def test_rooms_are_those_after_the_pass(fleet, scheduler, control):
    await fleet.deployment("dep-1", budget=99)
    await fleet.deployment("dep-2", budget=99, affinity={"region": ["x"]})
    await fleet.node(slots=8)
    await fleet.runs(3)
    await scheduler.one_pass()
    assert control.rooms == {"dep-1": 5, "dep-2": 1}
    await fleet.runs(5)
    await scheduler.one_pass()
    assert control.rooms == {"dep-1": 2, "dep-2": 1}, "a quarter of those that run, at least one"
    await fleet.runs(2)
    await scheduler.one_pass()
    assert control.rooms == {"dep-1": 0, "dep-2": 1}


async def test_a_flushed_valkey_costs_a_pass_one_more_look(fleet, scheduler, replica):
    await fleet.deployment(budget=20)
    await fleet.node("n", 4)
    await fleet.runs(2)
    await scheduler.one_pass()
    await replica.valkey.flushall()
    await fleet.runs(4)
    assert await scheduler.one_pass() == PassResult(granted=2, refused=2, unplaced=2, explained=2)
    assert await fleet.leases_by("node_id") == {"n": 4}


async def test_what_is_overtaken_again_and_again_says_so_and_waits_for_the_next_pass(
    fleet, scheduler, replica
):
    await fleet.deployment()
    await fleet.node("n", 1)
    await fleet.runs(1)
    generation = (await replica.reader.read()).hold_generation
    taken = [Hold("another", "n", "dep-1")]
    await replica.holds.change(generation, taken, {"n": 1}, {"dep-1": 4})
    assert await scheduler.one_pass() == PassResult(refused=5, unplaced=1, explained=1)
    reason = await fleet.value("select waiting_reason from runs")
    assert reason == "to be placed again: the slot it should have had was taken by another run"
    scheduler.freed(taken)
    assert (await scheduler.one_pass()).granted == 1


async def test_new_runs_and_freed_slots_start_at_a_wake_up(fleet, replica, control):
    scheduler = scheduler_of(replica, control, interval_s=3600)
    await fleet.deployment()
    await fleet.node("n", 1)
    async with running(scheduler):
        await eventually(lambda: control.rooms)
        first, second = await fleet.runs(2)
        scheduler.wake()
        await eventually(lambda: [grant.run_id for grant in control.offered] == [first])
        await fleet.finish([first])
        scheduler.freed([Hold(first, "n", "dep-1")])
        await eventually(lambda: [grant.run_id for grant in control.offered] == [first, second])


async def test_a_run_starts_when_its_back_off_ends(fleet, replica, control):
    scheduler = scheduler_of(replica, control, interval_s=0.05)
    await fleet.deployment()
    await fleet.node()
    await fleet.runs(1)
    await fleet.rows("update runs set not_before = now() + interval '300 ms'")
    async with running(scheduler):
        await eventually(lambda: control.offered)
    late = await fleet.value("select started_at >= not_before from runs")
    assert late


async def test_while_valkey_is_away_runs_wait_and_say_so_and_go_on_afterwards(
    fleet, database, control, data_dir
):
    await fleet.deployment(budget=20)
    await fleet.node("n", 4)
    async with EmbeddedValkey(data_dir) as server:
        url = server.url
        async with replica_of(database, url) as replica:
            scheduler = scheduler_of(replica, control, interval_s=0.05)
            await fleet.runs(2)
            async with running(scheduler):
                await eventually(lambda: len(control.offered) == 2)
                await server.__aexit__()
                await fleet.runs(4)

                async def says_so():
                    rows = await fleet.rows(
                        "select waiting_reason from runs where status = 'queued'"
                    )
                    return Counter(str(row["waiting_reason"])[:14] for row in rows) == {
                        "placing waits:": 2,
                        "no node has a ": 2,
                    }

                await eventually(says_so)
                with pytest.raises(Unavailable):
                    await scheduler.one_pass()
    assert await fleet.leases_by("node_id") == {"n": 2}
    async with (
        EmbeddedValkey(data_dir / "empty") as server,
        replica_of(database, server.url) as one,
    ):
        scheduler = scheduler_of(one, control, interval_s=0.05)
        async with running(scheduler):
            await eventually(lambda: len(control.offered) == 4)
    assert await fleet.leases_by("node_id") == {"n": 4}


async def test_a_replica_that_is_unfit_places_nothing_and_the_runs_say_why(
    fleet, database, control, replica
):
    await fleet.deployment(budget=20)
    await fleet.node("n", 4)
    scheduler = scheduler_of(replica, control)
    scheduler._unfit = lambda: "our clock is 60 s ahead of Postgres's"
    await fleet.runs(1)
    with pytest.raises(Unavailable, match="our clock is 60 s ahead"):
        await scheduler.one_pass()
    (row,) = await fleet.rows("select waiting_reason from runs")
    assert row["waiting_reason"] == "placing waits: our clock is 60 s ahead of Postgres's"
    assert not control.offered
    scheduler._unfit = lambda: None
    assert (await scheduler.one_pass()).granted == 1


def test_a_scheduler_that_never_looks_is_refused():
    with pytest.raises(ValueError, match="interval_s"):
        SchedulerConfig(interval_s=0)


class Workers(Control):
    """Nodes that end each run as soon as it is offered."""

    def __init__(self, fleet):
        super().__init__()
        self.fleet = fleet
        self.queue = asyncio.Queue()
        self.schedulers = []
        self.most = Counter()

    async def offer(self, grants):
        await super().offer(grants)
        self.most |= Counter(await self.fleet.leases_by("node_id"))
        self.most |= Counter(await self.fleet.leases_by("dep_id"))
        self.queue.put_nowait(grants)

    async def run(self):
        while True:
            grants = await self.queue.get()
            await self.fleet.finish(grant.run_id for grant in grants)
            self.schedulers[0].freed(Hold(g.run_id, g.node_id, g.dep_id) for g in grants)
            for scheduler in self.schedulers:
                scheduler.wake()


async def test_two_schedulers_work_a_backlog_off_with_every_run_granted_once(
    fleet, database, valkey_url
):
    await fleet.deployment("dep-1", budget=3)
    await fleet.deployment("dep-2", budget=50)
    for n in range(2):
        await fleet.node(f"node-{n}", 3)
    await fleet.runs(30, "dep-1")
    await fleet.runs(60, "dep-2")
    workers = Workers(fleet)
    async with replica_of(database, valkey_url) as one, replica_of(database, valkey_url) as two:
        workers.schedulers = [scheduler_of(replica, workers) for replica in (one, two)]
        async with running(workers, *workers.schedulers):

            async def all_done():
                return await fleet.statuses() == {"completed": 90}

            await eventually(all_done, within_s=30)
    assert len(workers.offered) == len({grant.run_id for grant in workers.offered}) == 90
    assert workers.most["node-0"] <= 3
    assert workers.most["node-1"] <= 3
    assert workers.most["dep-1"] <= 3


async def test_a_run_that_has_just_come_costs_no_write_for_its_reason(fleet, replica, control):
    scheduler = scheduler_of(replica, control, explain_after_s=3600)
    await fleet.deployment(budget=1)
    await fleet.node()
    _, old, _ = await fleet.runs(3)
    assert await scheduler.one_pass() == PassResult(granted=1, unplaced=2, explained=0)
    await fleet.rows(
        f"update runs set created_at = now() - interval '2 h' where run_id = '{old}' returning 1"
    )
    assert (await scheduler.one_pass()).explained == 1


async def test_an_arrival_wakes_only_where_nothing_of_its_deployment_waits_already(
    fleet, scheduler
):
    await fleet.deployment("full", budget=1)
    await fleet.deployment("free", budget=9)
    await fleet.node()
    await fleet.runs(2, "full")
    await scheduler.one_pass()
    scheduler._woken.clear()
    scheduler.arrived("full")
    assert not scheduler._woken.is_set()
    scheduler.arrived("free")
    assert scheduler._woken.is_set()
