"""Settlement over a queue that is slow, busy, or faster than a renewal; Postgres is real."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from bpa.clocks import Clocks, boottime_s
from bpa.connectors import Message, SettlementLost
from bpa.control import settlement as module
from bpa.control.settlement import Held, Settlement
from bpa.domain.executions import Outcome, OutcomeKind
from bpa.errors import Unavailable
from bpa.postgres import Notifications
from bpa.telemetry.metrics import Metrics
from tests.eventually import eventually
from tests.integration.control.fleet import Fleet, arrival

CLOCKS = Clocks(3.0, time.time, boottime_s)

COMPLETED = Outcome(kind=OutcomeKind.COMPLETED)


class Queue:
    """A source whose answers the test decides on."""

    def __init__(self) -> None:
        self.busy = 0
        self.completed = 0
        self.renewals = 0
        self.renewable = asyncio.Event()
        self.renewed = False

    async def complete(self, message: Message) -> None:
        if self.busy:
            self.busy -= 1
            raise Unavailable("the broker is too busy")
        self.completed += 1

    async def renew(self, message: Message) -> datetime:
        self.renewals += 1
        await self.renewable.wait()
        self.renewed = True
        raise SettlementLost("settled already")


@asynccontextmanager
async def _settling(fleet: Fleet, database: str, queue: Queue) -> AsyncIterator[Settlement]:
    notifications = Notifications(database, application_name="test", rng=random.Random(1))
    settlement = Settlement(fleet.runs, notifications, "replica-1", Metrics(), CLOCKS)
    fleet.runs.on_ended(settlement.ended)
    received = await fleet.runs.receive(arrival())
    message = Message(
        body=b"", sequence_number=1, enqueued_ms=1, locked_until=datetime.now(UTC) - timedelta(1)
    )
    held = Held(received.run_id, received.delivery_id, queue, message, "", "")
    settlement.hold(held)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(settlement.run())
        yield settlement
        running.cancel()


async def _finish(fleet: Fleet) -> None:
    await fleet.register()
    run_id = arrival().run_id
    epoch = await fleet.granted(run_id)
    await fleet.leases.acknowledge(run_id, epoch)
    await fleet.runs.finish(run_id, epoch, COMPLETED)


async def _disposition(fleet: Fleet) -> str | None:
    (delivery,) = (await fleet.history.get(arrival().run_id))["deliveries"]
    return delivery["disposition"]


async def test_a_settlement_that_a_busy_broker_refuses_is_tried_again(
    fleet: Fleet, database: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_SWEEP_EVERY_S", 0.05)
    queue = Queue()
    queue.busy = 2
    async with _settling(fleet, database, queue) as settlement:
        await _finish(fleet)
        await eventually(lambda: queue.completed == 1)
        await settlement.flush()
        assert settlement.holding == 0
    assert await _disposition(fleet) == "complete"


async def test_a_slow_renewal_is_not_asked_for_twice_nor_taken_for_a_loss(
    fleet: Fleet, database: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_RENEW_EVERY_S", 0.01)
    queue = Queue()
    async with _settling(fleet, database, queue) as settlement:
        await eventually(lambda: queue.renewals > 0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await eventually(lambda: queue.renewals > 1)
        await _finish(fleet)
        await eventually(lambda: queue.completed == 1)
        await settlement.flush()
        queue.renewable.set()
        await eventually(lambda: queue.renewed)
        await fleet.runs.settled(0, "none")  # what was noted before this is written now
    assert await _disposition(fleet) == "complete"


class Silent(Queue):
    """A queue that answers no abandon until all have been asked for."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.asked = asyncio.Barrier(count)

    async def abandon(self, message: Message) -> None:
        await self.asked.wait()


async def test_messages_are_given_back_at_the_same_time(fleet: Fleet, database: str):
    queue = Silent(2)
    async with _settling(fleet, database, queue) as settlement:
        (held,) = settlement._held[arrival().run_id]
        second = await fleet.runs.receive(arrival(2))
        settlement.hold(Held(second.run_id, second.delivery_id, queue, held.message, "", ""))
        assert settlement.needs(queue)
        async with asyncio.timeout(20):
            await settlement.abandon_all()
        assert not settlement.needs(queue)
    assert await _disposition(fleet) == "abandon"


async def test_a_queue_that_does_not_answer_holds_up_no_shutdown(
    fleet: Fleet, database: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_FLUSH_AT_MOST_S", 0.1)
    async with _settling(fleet, database, Silent(2)) as settlement:
        async with asyncio.timeout(20):
            await settlement.abandon_all()
    assert await _disposition(fleet) is None


async def test_a_source_is_needed_while_a_settlement_over_it_is_under_way(
    fleet: Fleet, database: str
):
    queue = Queue()
    under_way, answer = asyncio.Event(), asyncio.Event()

    async def slow(message: Message) -> None:
        under_way.set()
        await answer.wait()

    queue.complete = slow
    async with _settling(fleet, database, queue) as settlement:
        await _finish(fleet)
        await under_way.wait()
        assert settlement.holding == 0
        assert settlement.needs(queue)
        answer.set()
        await settlement.flush()
        assert not settlement.needs(queue)


async def test_a_settlement_that_has_died_does_not_hold_up_a_shutdown(
    fleet: Fleet, database: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_FLUSH_AT_MOST_S", 0.05, raising=False)
    async with _settling(fleet, database, Queue()) as settlement:
        pass
    await _finish(fleet)
    async with asyncio.timeout(5):
        await settlement.flush()
