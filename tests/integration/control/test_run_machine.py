"""Runs, leases and settlement under any order of events, compared with the rules at every step.

Two replicas of the real services work on a real Postgres, the real scheduler grants. Every act is
also done by `tests.simulation.rules`; after each the tables must be what the rules say, and the
timelines made of them whole. Acts that happen at once must have come to what some order of them
comes to.

The examples are the same in every run of the suite; ``--hypothesis-seed=random`` tries others.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from bpa.control.agents import Agents
from bpa.control.deployments import Deployments, Feeding
from bpa.domain.executions import Outcome, OutcomeKind
from bpa.domain.journal import Step, StepKind
from bpa.domain.runs import RunId
from bpa.domain.specs import DeploymentSpec, Target
from bpa.postgres import open_pool
from bpa.valkey import open_valkey
from tests.integration.control.fleet import AGENT, DEP_ID
from tests.integration.control.run_world import NODES, Replica, World
from tests.simulation.rules import FAILURES_MAX, Rules

DEPLOYMENT = DeploymentSpec(
    agent_id=AGENT.agent_id, version=AGENT.version, environment="dev", target=Target(slot_budget=3)
)
MESSAGES_MAX = 6
OUTCOMES = [
    Outcome(kind=OutcomeKind.COMPLETED, result={"status": 201}),
    Outcome(kind=OutcomeKind.AGENT_FAILED, detail="ValueError"),
    Outcome(kind=OutcomeKind.CRASHED, detail="SIGKILL"),
    Outcome(kind=OutcomeKind.NODE_FAILED, detail="no sandbox"),
    Outcome(kind=OutcomeKind.HANDED_BACK),
    Outcome(kind=OutcomeKind.REJECTED, reason="BudgetExceeded", detail="x"),
]
EFFECT = 1
"""The step whose answer comes with a completed outcome."""

REPORTS = (
    ["record", "finish"] * 4
    + ["renew", "reap"] * 2
    + ["acknowledge", "refuse", "refuse", "cancel", "end cancelled"]
)
MESSAGES = ["arrive"] + ["settle", "sweep"] * 2
LEASES = ["start"] * 4 + ["race"] * 3 + ["wear out"] * 2 + REPORTS
TROUBLE = ["lose a lock", "deliver", "die", "empty valkey", "boot", "run out"]
FAULTS = ["", "", "busy", "lost", "unheard"]

Act = tuple[str, Awaitable[object], Callable[[Rules], object]]

Event = tuple[str, int, int, int]
"""What happens, to which of those it can happen to, at which replica, and how."""


def events_of(names: list[str]) -> st.SearchStrategy[list[Event]]:
    event = st.tuples(
        st.sampled_from(names), st.integers(0, 40), st.integers(0, 1), st.integers(0, 11)
    )
    return st.lists(event, min_size=1, max_size=10)


def step_of(run_id: RunId, n: int) -> Step:
    """One of a dozen steps: positions, kinds, bytes and answers that agree or contradict."""
    seq, is_effect, variant = n % 2, n % 3 != 0, n // 6
    kind = StepKind.EFFECT if is_effect else StepKind.MODEL
    return Step(
        seq=seq,
        kind=kind,
        digest=f"{kind}-{variant}",
        intent=f"bytes {variant}".encode() if is_effect else b"",
        effect_key=f"{run_id}:key" if is_effect else "",
        answer=b"{}" if n % 4 == 3 else None,
        started_at_ms=int(time.time() * 1000) - n,  # a node's clock is not Postgres's
        ended_at_ms=int(time.time() * 1000) + n,
    )


def act_of(what: str, world: World, replica: Replica, lease: tuple[RunId, int], n: int) -> Act:
    """Return one report, or one pass of the reaper, for the product and for the rules."""
    run_id, epoch = lease
    match what:
        case "acknowledge":
            product = replica.leases.acknowledge(run_id, epoch)
            return what, product, lambda rules: rules.acknowledge(run_id, epoch)
        case "refuse":
            product = replica.leases.refuse(run_id, epoch, "full")
            return what, product, lambda rules: rules.refuse(run_id, epoch)
        case "renew":
            return what, *renewal_of(world, replica, lease, n)
        case "record":
            step = step_of(run_id, n)
            product = replica.runs.record_step(run_id, epoch, step)
            return what, product, lambda rules: rules.record(run_id, epoch, step)
        case "finish":
            outcome = OUTCOMES[n % len(OUTCOMES)]
            if n == 0:
                effect = Step(seq=EFFECT, kind=StepKind.EFFECT, digest="", answer=b'{"a":1}')
                outcome = msgspec.structs.replace(outcome, effect=effect)
            product = replica.runs.finish(run_id, epoch, outcome)
            return what, product, lambda rules: rules.finish(run_id, epoch, outcome)
        case "reap":
            return what, replica.leases.reap(), lambda rules: rules.reap()
        case "end cancelled":
            by_force = n > 5
            product = replica.runs.end_cancelled(0.0 if by_force else 3600.0)
            return what, product, lambda rules: rules.end_cancelled(by_force=by_force)
    return "cancel", cancelled(replica, run_id), lambda rules: rules.cancel(run_id)


async def cancelled(replica: Replica, run_id: RunId) -> None:
    """Ask for the end of a run; its status is read afterwards, when others may have moved it."""
    await replica.runs.cancel(run_id, "ops", "not wanted")


def renewal_of(
    world: World, replica: Replica, lease: tuple[RunId, int], n: int
) -> tuple[Awaitable[object], Callable[[Rules], object]]:
    """Return a heartbeat of one node that lists all leases there are, and perhaps were."""
    leases = {
        (RunId(run.run_id), run.epoch): run.lease
        for run in world.rules.runs.values()
        if run.lease is not None
    }
    node_id = leases[lease].node_id if lease in leases else NODES[n % 2]
    boot_id = "boot-0" if n > 9 else world.rules.boots[node_id]
    held = list({lease, *leases})
    world.counts["renewed too late"] += any(
        one.boot_id == boot_id and one.expires_at_s <= world.now_s for one in leases.values()
    )
    product = renewed(replica, node_id, boot_id, held)
    return product, lambda rules: rules.renew(node_id, boot_id, held)


async def renewed(
    replica: Replica, node_id: str, boot_id: str, held: list[tuple[RunId, int]]
) -> set[tuple[RunId, int]] | None:
    renewal = await replica.leases.renew(node_id, boot_id, held)
    kept = set(renewal.renewed)
    assert set(renewal.lost) == set(held) - kept
    return kept if renewal.known else None


class RunMachine(RuleBasedStateMachine):
    """Messages, runs and their leases, as they come."""

    runner: asyncio.Runner
    make: Callable[[], World]

    @initialize(messages=st.integers(1, 4))
    def begin(self, messages: int) -> None:
        self.world = type(self).make()
        self.runner.run(self.world.open())
        self.each([("arrive", 0, 0, 6)] * messages + [("start", 0, 1, 3)])

    @rule(events=events_of(MESSAGES))
    def messages_move(self, events: list[Event]) -> None:
        self.each(events)

    @rule(events=events_of(LEASES))
    def leases_move(self, events: list[Event]) -> None:
        self.each(events)

    @rule(events=events_of(TROUBLE))
    def trouble_comes(self, events: list[Event]) -> None:
        self.each(events)

    def each(self, events: list[Event]) -> None:
        for what, pick, n, variant in events:
            self.runner.run(happens(self.world, what, pick, n, variant))
            self.runner.run(self.world.check())
        self.runner.run(self.world.check_stories())

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.runner.run(close(self.world))


async def close(world: World) -> None:
    """Once faults stop, every message is settled with the end of its run, and none is left."""
    try:
        await drain(world)
        settled = [waiting.settled_as for waiting in world.queue.messages.values()]
        ends = [run.reason or str(run.status) for run in world.rules.runs.values()]
        assert Counter(settled) == Counter(ends)
        world.counts.update(f"ended {end}" for end in ends)
    finally:
        for replica in world.replicas:
            await replica.close()


async def happens(world: World, what: str, pick: int, n: int, variant: int) -> None:
    """Let one event come; some have nothing to come to, and pass."""
    if what in MESSAGES:
        await message_moves(world, what, n, variant)
    elif what in LEASES:
        await lease_moves(world, what, pick, n, variant)
    else:
        await trouble(world, what, pick, n, variant)


async def message_moves(world: World, what: str, n: int, variant: int) -> None:
    if what == "arrive" and len(world.queue.messages) < MESSAGES_MAX:
        await world.deliver(world.queue.arrive(is_good=variant > 1), n)
    elif what != "arrive":
        world.queue.fault = FAULTS[variant % len(FAULTS)]
        await (world.replicas[n].settle() if what == "settle" else world.replicas[n].sweep())


async def lease_moves(world: World, what: str, pick: int, n: int, variant: int) -> None:
    leased = [run.run_id for run in world.rules.runs.values() if run.lease]
    if what == "start":
        await start(world, n, variant)
    elif what == "wear out" and leased:
        await wear_out(world, leased[pick % len(leased)], world.replicas[n], variant)
    elif what == "race" and world.granted:
        await race(world, pick, n, variant)
    elif what in REPORTS and world.granted:
        lease = lease_of(world, pick, shift=variant == 11)
        await world.both(*act_of(what, world, world.replicas[n], lease, variant))


async def trouble(world: World, what: str, pick: int, n: int, variant: int) -> None:
    messages = world.queue.messages
    held = [waiting for waiting in messages.values() if waiting.lock]
    free = [number for number, waiting in messages.items() if waiting.is_free]
    leased = [run.run_id for run in world.rules.runs.values() if run.lease]
    match what:
        case "lose a lock" if held:
            held[pick % len(held)].lock = None
            world.counts["locks lost"] += 1
        case "deliver" if free:
            await world.deliver(free[pick % len(free)], n)
        case "die":
            await world.replace(n)
        case "empty valkey":
            await world.forget_holds()
        case "boot":
            await world.boot(NODES[variant % 2], n, is_silent=variant > 3)
        case "run out" if leased:
            await world.expire(leased if variant > 5 else [leased[pick % len(leased)]])


def lease_of(world: World, pick: int, shift: int = 0) -> tuple[RunId, int]:
    """Pick a lease there is or, one time in three, any there ever was; shift its epoch."""
    leased = [run for run in world.rules.runs.values() if run.lease]
    if leased and pick % 3:
        run = leased[pick % len(leased)]
        return RunId(run.run_id), run.epoch + shift
    run_id, epoch = world.granted[-1 - pick % len(world.granted)]
    return run_id, epoch + shift


async def start(world: World, n: int, most: int) -> None:
    """Have waiting runs granted, and up to two of what is offered acknowledged."""
    await world.schedule(n)
    offered = [run for run in world.rules.runs.values() if run.status == "offered"]
    for run in offered[: most % 3]:
        lease = (RunId(run.run_id), run.epoch)
        await world.both(*act_of("acknowledge", world, world.replicas[n], lease, 0))


async def race(world: World, pick: int, n: int, variant: int) -> None:
    """Have two or three things happen to a lease at once, at two replicas."""
    lease = lease_of(world, pick)
    whats = [REPORTS[(pick + nth * (variant + 1)) % len(REPORTS)] for nth in range(2 + n)]
    await world.race(
        [
            act_of(what, world, world.replicas[nth % 2], lease, (variant + 5 * nth) % 12)
            for nth, what in enumerate(whats)
        ]
    )


async def wear_out(world: World, run_id: str, replica: Replica, variant: int) -> None:
    """Have a run fail that has failed almost too often, in one of three ways."""
    run = world.rules.runs[run_id]
    below = variant // 6
    past = {name: max(most - 1 - below, 0) for name, most in FAILURES_MAX.items()}
    await world.age(run_id, **past)
    for what in ("acknowledge", "finish"):
        lease, kind = (RunId(run_id), run.epoch), 1 + variant % 3
        await world.both(*act_of(what, world, replica, lease, kind))


async def drain(world: World) -> None:
    """Let everything that still has to happen happen, without a fault."""
    first, second = world.replicas
    world.queue.fault = ""
    await world.forget_holds()  # those that a dead replica was about to give back would expire
    await redeliver(world)
    for _ in range(10):
        await world.expire([r.run_id for r in world.rules.runs.values() if r.lease])
        for what in ("reap", "end cancelled"):
            await world.both(*act_of(what, world, first, (RunId(""), 0), 11))
        await second.committer.flush((await second.reader.read()).hold_generation)
        await world.schedule(0)
        for run in world.rules.runs.values():
            if run.lease:
                for what in ("acknowledge", "finish"):
                    lease = (RunId(run.run_id), run.epoch)
                    await world.both(*act_of(what, world, second, lease, 6))
        for replica in world.replicas:
            await replica.sweep()
        await redeliver(world)
    await world.check()
    await world.check_stories()


async def redeliver(world: World) -> None:
    for number, waiting in world.queue.messages.items():
        if waiting.is_free:
            await world.deliver(number, 1)


@asynccontextmanager
async def worlds(database: str, valkey_url: str) -> AsyncIterator[Callable[[], World]]:
    """Deploy the agent; yield what makes worlds with nothing in them, which count together."""
    counts: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        pool = await open_pool(database, min_size=2, max_size=4, application_name="machine")
        stack.push_async_callback(pool.close)
        valkey = await open_valkey(valkey_url, client_name="machine")
        stack.push_async_callback(valkey.aclose)
        await Agents(pool).create(AGENT)
        await Deployments(pool).create(DEPLOYMENT)
        feeding = Feeding(DEP_ID, AGENT.agent_id, AGENT.version, "invoices", DEPLOYMENT, 1)
        yield lambda: World(pool, valkey, feeding, counts)


def test_no_order_of_events_loses_a_message_or_a_fence(database: str, valkey_url: str):
    with asyncio.Runner() as runner:
        opened = worlds(database, valkey_url)
        make = runner.run(opened.__aenter__())
        try:
            machine = type("Machine", (RunMachine,), {"runner": runner, "make": staticmethod(make)})
            budget = settings(
                max_examples=20,
                stateful_step_count=10,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            run_state_machine_as_test(machine, settings=budget)
            assert make().counts["races with a loser"]
        finally:
            runner.run(opened.__aexit__(None, None, None))


async def test_every_kind_of_event_bites(database: str, valkey_url: str):
    rng, missing, worlds_made = random.Random(1), EXPECTED, 0
    async with worlds(database, valkey_url) as make:
        while missing:
            worlds_made += 1
            assert worlds_made < 50, f"never happened, so nothing is proved of it: {missing}"
            world = make()
            await world.open()
            for _ in range(3):
                await world.deliver(world.queue.arrive(is_good=True), 0)
            for _ in range(50):
                what = rng.choice([*MESSAGES, *LEASES, *TROUBLE])
                await happens(world, what, rng.randrange(40), rng.randrange(2), rng.randrange(12))
                await world.check()
                await world.check_stories()
            await close(world)
            missing = [what for what in EXPECTED if not world.counts[what]]


EXPECTED = [
    *(f"{what}: done" for what in ("acknowledge", "refuse", "renew", "record", "finish", "cancel")),
    *(f"{what}: StaleLease" for what in ("acknowledge", "refuse", "record", "finish")),
    *("cancel: Conflict", "record: Conflict", "races with a loser"),
    *("left by an earlier boot", "boots refused", "renewed too late"),
    *(
        "end cancelled: done",
        "joined",
        "locks lost",
        "replicas died",
        "reap: done",
        "ended completed",
        "ended Cancelled",
    ),
    *(f"settlement: {fault}" for fault in ("no fault", "busy", "lost", "unheard")),
    *(f"ended {reason}" for reason in ("AttemptsExhausted", "CrashLoop", "BudgetExceeded")),
]
