"""Racing planners under any order of events: nothing is oversubscribed, nothing waits for ever.

Three replicas plan and commit on a real Postgres and a real Valkey, from snapshots as old as it
comes. The examples are the same in every run of the suite; ``--hypothesis-seed=random`` tries
others.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from bpa.postgres import open_pool
from tests.integration.scheduler.conftest import Fleet, replica_of
from tests.integration.scheduler.fleet_world import (
    PLANNERS,
    STORES,
    TROUBLE,
    WORK,
    World,
    happens,
    random_event,
)

Event = tuple[str, int, int]
EXPECTED = [
    *(f"refused: {what}" for what in ("generation", "run", "node", "deployment", "full")),
    *("granted", "overtaken at once", "holds without a grant", "holds expired"),
    "taken from an earlier boot",
]


def events_of(names: list[str]) -> st.SearchStrategy[list[Event]]:
    event = st.tuples(st.sampled_from(names), st.integers(0, 23), st.integers(0, 2))
    return st.lists(event, min_size=1, max_size=8)


class CommitMachine(RuleBasedStateMachine):
    """A fleet and its planners."""

    runner: asyncio.Runner
    make: Callable[[], World]

    @initialize(runs=st.integers(1, 12))
    def begin(self, runs: int) -> None:
        self.world = type(self).make()
        self.runner.run(self.world.open())
        self.each([("arrive", nth, 0) for nth in range(runs)])

    @rule(events=events_of(PLANNERS))
    def planners_work(self, events: list[Event]) -> None:
        self.each(events)

    @rule(events=events_of(PLANNERS + WORK))
    def work_comes_and_goes(self, events: list[Event]) -> None:
        self.each(events)

    @rule(events=events_of(PLANNERS + TROUBLE + STORES))
    def trouble_comes(self, events: list[Event]) -> None:
        self.each(events)

    def each(self, events: list[Event]) -> None:
        for event in events:
            self.runner.run(happens(self.world, *event))
            self.runner.run(self.world.check())

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.runner.run(self.world.settle_down())


@asynccontextmanager
async def worlds(database: str, valkey_url: str) -> AsyncIterator[Callable[[], World]]:
    """Open three replicas; yield what makes worlds with nothing in them, which count together."""
    counts: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        pool = await open_pool(database, min_size=1, max_size=2, application_name="fleet")
        stack.push_async_callback(pool.close)
        replicas = [
            await stack.enter_async_context(replica_of(database, valkey_url)) for _ in range(3)
        ]
        yield lambda: World(Fleet(pool), replicas, counts)


def test_planners_that_race_oversubscribe_nothing_and_starve_nothing(
    database: str, valkey_url: str
):
    with asyncio.Runner() as runner:
        opened = worlds(database, valkey_url)
        make = runner.run(opened.__aenter__())
        try:
            machine = type(
                "Machine", (CommitMachine,), {"runner": runner, "make": staticmethod(make)}
            )
            budget = settings(
                max_examples=40,
                stateful_step_count=8,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            run_state_machine_as_test(machine, settings=budget)
            assert make().counts["granted"]
        finally:
            runner.run(opened.__aexit__(None, None, None))


async def test_every_kind_of_race_and_trouble_bites(database: str, valkey_url: str):
    rng, missing, worlds_made = random.Random(1), EXPECTED, 0
    async with worlds(database, valkey_url) as make:
        while missing:
            worlds_made += 1
            assert worlds_made < 50, f"never happened, so nothing is proved of it: {missing}"
            world = make()
            await world.open()
            for nth in range(8):
                await world.arrive(2, f"dep-{1 + nth % 2}")
            for _ in range(60):
                await happens(world, *random_event(rng))
                await world.check()
            await world.settle_down()
            missing = [what for what in EXPECTED if not world.counts[what]]
