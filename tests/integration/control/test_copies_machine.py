"""Messages sent, sent twice, buried, swept, replayed in any order: none is lost or is two runs.

Postgres, intake, settlement, sweep and replay are real; the broker is a model of one, which buries
what it likes when it likes and lets a call of a replay fail before or after it did its work.
"""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from azure.servicebus import ServiceBusReceivedMessage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bpa.connectors import Message, SettlementLost
from bpa.connectors.service_bus import DeadLetter, Peek, Rewrite, replayed
from bpa.connectors.service_bus.messages import as_message
from bpa.control import sweep
from bpa.control.agents import Agents
from bpa.control.dead_letters import DeadLetters
from bpa.control.deployments import Deployments
from bpa.control.intake import Intake, Origin
from bpa.control.replay_plan import LetterId
from bpa.control.replaying import Replaying
from bpa.control.replays import Replays
from bpa.control.settlement import Settlement
from bpa.control.sweep import Sweep
from bpa.domain.executions import Outcome, OutcomeKind
from bpa.domain.runs import RunId
from bpa.errors import Unavailable
from bpa.postgres import Notifications, Pool, fetch_all, open_pool
from bpa.telemetry.metrics import Metrics
from tests.integration.control.fleet import AGENT, DEP_ID, DEPLOYMENT, Fleet, fleet_on
from tests.integration.control.run_world import CLOCKS

BODY = b"Invoice A-1 of ACME over 12.00 EUR."
ENQUEUED_MS = 1_763_800_000_000
COMPLETED = Outcome(kind=OutcomeKind.COMPLETED)
FAILED = Outcome(kind=OutcomeKind.REJECTED, reason="BudgetExceeded", detail="x")
OUTCOMES = {"complete": COMPLETED, "fail": FAILED}
FAULTS = ("", "", "before the send", "after the send", "before it goes", "after it went")
ACTS = (
    *("arrive", "deliver", "deliver", "deliver", "receive", "record", "bury", "bury", "bury"),
    *("lose the lock", "die", "give back", "renew", "sweep", "sweep", "sweep"),
    *("replay", "replay", "replay twice", "replay twice", "complete", "fail", "fail"),
)
MESSAGES_MAX = 2
RUNS = "select run_id::text as run_id, status, effect_key from runs"
FED = """
select distinct run_id::text as run_id from deliveries
where sequence_number = any(%(numbers)s::bigint[])
"""
CLEAR = "truncate runs, deliveries, run_inputs, steps, leases, replays, sweeps, audit cascade"


@dataclass(slots=True)
class Kept:
    """A message at the broker."""

    message: Message
    encoded: bytes
    lock: object = None
    is_dead: bool = False


class Broker:
    """A queue with its dead letters; it is source, reader, locks and publisher of it."""

    def __init__(self) -> None:
        self.kept: dict[int, Kept] = {}
        self.fault = ""
        self._numbers = itertools.count(1)

    async def send_encoded(self, encoded: bytes) -> None:
        self._fail_at("before the send")
        read = as_message(ServiceBusReceivedMessage.from_bytes(encoded), None)
        number = next(self._numbers)
        message = replace(read, sequence_number=number, enqueued_ms=ENQUEUED_MS + number)
        self.kept[number] = Kept(message, encoded)
        self._fail_at("after the send")

    def waiting(self) -> list[Kept]:
        return [one for one in self.kept.values() if not one.is_dead]

    def letters(self) -> list[Kept]:
        return sorted(
            (one for one in self.kept.values() if one.is_dead),
            key=lambda one: one.message.sequence_number,
        )

    def receive(self, kept: Kept) -> Message:
        kept.lock = object()
        until = datetime.now(UTC) + timedelta(hours=1)
        return replace(kept.message, receipt=kept.lock, locked_until=until)

    def bury(self, kept: Kept) -> None:
        kept.lock, kept.is_dead = None, True

    async def complete(self, message: Message) -> None:
        if message.receipt is None:  # a dead letter's, of a replay
            self._fail_at("before it goes")
            del self.kept[message.sequence_number]
            self._fail_at("after it went")
        else:
            del self.kept[self._held(message).message.sequence_number]

    async def dead_letter(self, message: Message, _reason: str, _description: str) -> None:
        self.bury(self._held(message))

    async def abandon(self, message: Message) -> None:
        self._held(message).lock = None

    async def renew(self, message: Message) -> datetime:
        self._held(message)
        return message.locked_until

    async def oldest_waiting(self) -> int | None:
        return min((one.message.sequence_number for one in self.waiting()), default=None)

    @asynccontextmanager
    async def peeking(self) -> AsyncIterator[Peek]:
        async def peek(most: int, first: int) -> list[DeadLetter]:
            return [one for one in self._peeked() if one.message.sequence_number >= first][:most]

        yield peek

    async def find(self, numbers: Collection[int]) -> dict[int, DeadLetter]:
        found = {one.message.sequence_number: one for one in self._peeked()}
        return {number: found[number] for number in numbers if number in found}

    async def next_of(self, wanted: Collection[int]) -> Message | None:
        found = [one.message for one in self._peeked() if one.message.sequence_number in wanted]
        return found[0] if found else None

    async def give_back(self, _message: Message) -> None:
        """It was not locked."""

    def _peeked(self) -> Iterator[DeadLetter]:
        for one in self.letters():
            yield DeadLetter(one.message, "MaxDeliveryCountExceeded", "10 times", one.encoded)

    def _held(self, message: Message) -> Kept:
        kept = self.kept.get(message.sequence_number)
        if kept is None or kept.lock is None or kept.lock is not message.receipt:
            raise SettlementLost("the lock is gone")
        return kept

    def _fail_at(self, point: str) -> None:
        if self.fault == point:
            self.fault = ""
            raise Unavailable(f"cut {point}")


class World:
    """One control with one queue; messages that are received and not yet recorded are in hand."""

    def __init__(self, fleet: Fleet, broker: Broker, counts: Counter[str]) -> None:
        self.fleet, self.broker, self.counts = fleet, broker, counts
        self.in_hand: list[Message] = []
        self.replays = Replays(fleet.pool)
        pool, runs, deployments, burials = fleet.pool, fleet.runs, fleet.deployments, fleet.burials
        metrics = Metrics()
        unused = Notifications("", application_name="test", rng=random.Random(1))
        self.settlement = Settlement(runs, unused, "replica-1", metrics, CLOCKS)
        runs.on_ended(self.settlement.ended)
        self.intake = Intake(runs, self.replays, self.settlement, lambda _: None)
        self.sweep = Sweep(
            "dev", "ns", deployments, self.replays, burials, pool, lambda _: broker, 0.0, 1.0
        )
        letters = DeadLetters("dev", "ns", deployments, self.replays, lambda _: broker)
        self.replaying = Replaying(
            letters, self.replays, burials, runs, self._itself, self._itself, metrics
        )

    @asynccontextmanager
    async def _itself(self, _queue: str) -> AsyncIterator[Broker]:
        yield self.broker

    async def runs(self) -> list[dict[str, str]]:
        return await fetch_all(self.fleet.pool, RUNS)

    async def alive(self) -> list[str]:
        over = ("completed", "dead_lettered")
        return sorted(run["run_id"] for run in await self.runs() if run["status"] not in over)

    async def happens(self, what: str, which: int, fault: str) -> None:  # noqa: C901 - one list
        broker = self.broker
        free = [one for one in broker.waiting() if one.lock is None]
        locked = [one for one in broker.waiting() if one.lock is not None]
        alive, letters = await self.alive(), broker.letters()
        if what == "arrive" and self.counts["sent"] < MESSAGES_MAX:
            self.counts["sent"] += 1
            await broker.send_encoded(replayed(b"", _first(self.counts["sent"])))
        elif what == "deliver" and free:
            await self.record(broker.receive(free[which % len(free)]))
        elif what == "receive" and free:
            self.in_hand.append(broker.receive(free[which % len(free)]))
        elif what == "record" and self.in_hand:
            await self.record(self.in_hand.pop(which % len(self.in_hand)))
        elif what == "bury" and broker.waiting():
            broker.bury(broker.waiting()[which % len(broker.waiting())])
        elif what == "lose the lock" and locked:
            locked[which % len(locked)].lock = None
        elif what == "die":
            self.settlement._held.clear()
            self.in_hand.clear()
            for one in locked:
                one.lock = None
        elif what == "give back":
            await self.settlement.abandon_all()
        elif what == "renew":
            for held in [one for some in self.settlement._held.values() for one in some]:
                await self.settlement._renew_one(held)
        elif what == "sweep":
            await self.swept()
        elif what in ("replay", "replay twice") and letters:
            letter = letters[which % len(letters)]
            if what == "replay twice":
                await self.replay([letter], "after the send")
            await self.replay([letter], fault)
        elif what in ("complete", "fail") and alive:
            await self.finish(
                alive[which % len(alive)], COMPLETED if what == "complete" else FAILED
            )

    async def record(self, message: Message) -> None:
        feeding = (await self.fleet.deployments.feeding("dev"))[DEP_ID]
        await self.intake.accept(message, Origin("ns", feeding, self.broker, None))
        await self.settle()

    async def finish(self, run_id: str, outcome: Outcome) -> None:
        epoch = await self.fleet.granted(RunId(run_id))
        await self.fleet.leases.acknowledge(RunId(run_id), epoch)
        await self.fleet.runs.finish(RunId(run_id), epoch, outcome)
        await self.settle()

    async def settle(self) -> None:
        await self.settlement._look_up(list(self.settlement._held))
        while not self.settlement._verdicts.empty():
            await self.settlement._settle_all(self.settlement._verdicts.get_nowait())

    async def swept(self) -> None:
        numbers = [one.message.sequence_number for one in self.broker.waiting()]
        fed = await fetch_all(self.fleet.pool, FED, numbers=numbers)
        before = {run_id for run_id in await self.alive() if {"run_id": run_id} in fed}
        self.counts["ended by a sweep"] += (await self.sweep.one_pass()).ended
        alive = {*await self.alive()}
        assert before == alive, f"ended with a message: {before}, alive without one: {alive}"
        self.counts["living copies"] += any(
            run_id in alive for run_id in await self.run_ids(self.broker.letters())
        )
        await self.settle()

    async def replay(self, letters: list[Kept], fault: str = "") -> None:
        self.broker.fault = fault
        ids = [LetterId("invoices", one.message.sequence_number) for one in letters]
        for outcome in await self.replaying.replay(ids):
            self.counts[f"replay: {outcome.result}"] += 1
        self.broker.fault = ""

    async def run_ids(self, kept: list[Kept]) -> set[str]:
        messages = [one.message for one in kept]
        return {one.run_id for one in await self.replays.identify(messages, "ns", "invoices")}

    async def check(self) -> None:
        keys: Counter[str] = Counter()
        for run in await self.runs():
            keys[run["effect_key"]] += run["status"] != "dead_lettered"
        assert max(keys.values(), default=0) <= 1, f"two runs under one key: {keys}"
        self.counts["copies"] += len(self.broker.kept) > self.counts["sent"]

    async def comes_to_an_end(self) -> None:
        """Let faults stop: whatever was sent completes, once, and nothing is left."""
        for _ in range(20):
            for message in self.in_hand:
                await self.record(message)
            self.in_hand.clear()
            self.settlement._held.clear()
            for one in self.broker.waiting():
                await self.record(self.broker.receive(one))
            await self.swept()
            for run_id in await self.alive():
                await self.finish(run_id, COMPLETED)
            if not self.broker.kept:
                break
            if self.broker.letters():
                await self.replay(self.broker.letters())
            await self.check()
        assert not self.broker.kept, "what is left comes to no end"
        completed = [run["effect_key"] for run in await self.runs() if run["status"] == "completed"]
        assert len({*completed}) == len(completed) == self.counts["sent"]


def _first(number: int) -> Rewrite:
    body = BODY.replace(b"12", b"%d" % (11 + number))
    return Rewrite(message_id=f"m-{number}", properties={}, body=body, content_type="text/plain")


EVENTS = st.lists(
    st.tuples(st.sampled_from(ACTS), st.integers(0, 5), st.sampled_from(FAULTS)),
    min_size=25,
    max_size=40,
)
EXPECTED = (
    *("copies", "ended by a sweep", "living copies"),
    *(f"replay: {result}" for result in ("replayed", "settled", "sent", "refused", "failed")),
)


def test_whatever_happens_to_its_messages_each_invoice_is_completed_once(
    database: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sweep, "PAGE", 1)  # a whole page of known letters would make good any mark
    total: Counter[str] = Counter()

    async def opened(stack: AsyncExitStack) -> Pool:
        pool = await open_pool(database, min_size=1, max_size=4, application_name="test")
        await stack.enter_async_context(pool)
        await Agents(pool).create(AGENT)
        await Deployments(pool).create(DEPLOYMENT)
        return pool

    async def play(pool: Pool, events: list[tuple[str, int, str]]) -> None:
        await fetch_all(pool, CLEAR)
        counts: Counter[str] = Counter()
        async with fleet_on(pool) as fleet:
            world = World(fleet, Broker(), counts)
            await fleet.register()
            for event in (("arrive", 0, ""), *events):
                await world.happens(*event)
                await world.check()
            await world.comes_to_an_end()
        total.update(counts)

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        pool = runner.run(opened(stack))

        @settings(max_examples=100, suppress_health_check=[*HealthCheck])
        @given(EVENTS)
        def examples(events: list[tuple[str, int, str]]) -> None:
            runner.run(play(pool, events))

        try:
            examples()
        finally:
            runner.run(stack.aclose())
    assert [what for what in EXPECTED if not total[what]] == [], "never happened"
