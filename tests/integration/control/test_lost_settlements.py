"""A settlement may be lost in four ways; the next delivery settles, and nothing is done again.

Queue, Postgres and the way in between are real; the way loses what the test tells it to.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from bpa.clocks import Clocks, boottime_s
from bpa.connectors import OutgoingMessage
from bpa.connectors.service_bus import ServiceBusSource, link
from bpa.control import settlement as settlement_module
from bpa.control.intake import Intake, Origin
from bpa.control.replays import Replays
from bpa.control.runs import Received, Runs
from bpa.control.settlement import Settlement
from bpa.domain.executions import Outcome, OutcomeKind
from bpa.postgres import Notifications, Pipeline
from bpa.telemetry.metrics import Metrics
from tests.chaos.settlements import Loss, LossyBus
from tests.eventually import eventually
from tests.integration.connectors.queues import QUEUE, Queue, open_queue
from tests.integration.control.fleet import DEP_ID, Fleet

CLOCKS = Clocks(3.0, time.time, boottime_s)

GOOD = b'{"invoice_id": "A-1", "currency": "EUR", "total": "10.00", "issued_on": "2026-01-02"}'
OUTCOMES = {
    "complete": Outcome(kind=OutcomeKind.COMPLETED),
    "dead_letter": Outcome(kind=OutcomeKind.REJECTED, reason="BudgetExceeded", detail="too much"),
}
LOCK_S = 2.0


@pytest.fixture(autouse=True)
def locks_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """No lock is renewed, and no answer to a settlement is waited for longer than a lock."""
    monkeypatch.setattr(settlement_module, "_RENEW_EVERY_S", 60.0)
    monkeypatch.setattr(settlement_module, "_SWEEP_EVERY_S", 60.0)
    monkeypatch.setattr(link, "CALL_TIMEOUT_S", 1.0)


@dataclass
class Replica:
    """What a control replica receives and settles with."""

    source: ServiceBusSource
    intake: Intake
    settlement: Settlement
    runs: Runs
    origin: Origin

    async def take(self) -> Received:
        """Receive one message and record it."""
        message = await self.source.receive(20.0)
        assert message is not None
        received = await self.intake.accept(message, self.origin)
        assert received is not None
        return received


@asynccontextmanager
async def replica_of(fleet: Fleet, database: str, name: str, port: int) -> AsyncIterator[Replica]:
    address = (
        f"Endpoint=sb://127.0.0.1:{port};SharedAccessKeyName=k;SharedAccessKey=v;"
        "UseDevelopmentEmulator=true;"
    )
    source = ServiceBusSource(address, QUEUE, links=1)
    await source.open()
    writes = Pipeline(fleet.pool)
    runs = Runs(fleet.pool, writes, fleet.breakers, name)
    notifications = Notifications(database, application_name=name, rng=random.Random(1))
    settlement = Settlement(runs, notifications, name, Metrics(), CLOCKS)
    runs.on_ended(settlement.ended)
    feeding = (await fleet.deployments.feeding("dev"))[DEP_ID]
    origin = Origin("ns", feeding, source, None)
    intake = Intake(runs, Replays(fleet.pool), settlement, lambda _: None)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(s.run()) for s in (notifications, settlement)]
        yield Replica(source, intake, settlement, runs, origin)
        for task in running:
            task.cancel()
    await source.aclose()
    await runs.aclose()
    await writes.aclose()


async def finish(fleet: Fleet, at: Replica, run_id: str, how: str) -> None:
    """Have a node execute the run once; its stream is at the replica ``at``."""
    epoch = await fleet.granted(run_id)
    await fleet.leases.acknowledge(run_id, epoch)
    await at.runs.finish(run_id, epoch, OUTCOMES[how])


def remaining(queue: Queue) -> tuple[int, int]:
    """Messages in the queue, locked ones included, and in the dead-letter queue."""
    queues = queue.emulator._broker.queues
    counts = queues[QUEUE].counts()
    return counts.active + counts.locked, queues[f"{QUEUE}/$deadletterqueue"].counts().active


async def dispositions(fleet: Fleet, run_id: str) -> list[str | None]:
    return [d["disposition"] for d in (await fleet.history.get(run_id))["deliveries"]]


@pytest.mark.parametrize(
    ("loss", "how"), [*((loss, "complete") for loss in Loss), (Loss.LOCK_LOST, "dead_letter")]
)
async def test_a_lost_settlement_is_made_good_by_the_next_delivery(
    fleet: Fleet, database: str, loss: Loss, how: str
):
    await fleet.register()
    over = (0, 1) if how == "dead_letter" else (0, 0)
    async with (
        open_queue(lock_duration_s=LOCK_S) as queue,
        LossyBus(queue.emulator.port).served() as bus,
        replica_of(fleet, database, "replica-1", bus.port) as replica,
    ):
        await queue.publish([OutgoingMessage(body=GOOD)])
        run_id = (await replica.take()).run_id
        bus.lose(loss)
        await finish(fleet, replica, run_id, how)
        await eventually(lambda: bus.lost[loss] == 1)
        noted = [["lost"], [how]]  # nobody can say, or the client asked again and was told
        if loss is Loss.AFTER_APPLYING:
            await eventually(lambda: remaining(queue) == over)
        else:
            assert remaining(queue) == (1, 0), "the loss has bitten"
            second = await replica.take()
            assert second.run_id == run_id
            assert not second.is_new
            assert second.verdict is not None, "settled at once, without an execution"
            noted = [["lost", how]]
        await eventually(lambda: remaining(queue) == over)
        assert replica.settlement.holding == 0

        async def is_noted() -> bool:
            found = await dispositions(fleet, run_id)
            assert found in noted, found
            return True

        await eventually(is_noted)
        run = await fleet.history.get(run_id)
        assert (run["executions"], run["steps"]) == (1, [])
        assert len((await fleet.searches.page())[0]) == 1


@pytest.mark.parametrize("ends_at", ["A", "B"])
async def test_the_replica_that_owns_the_latest_delivery_settles_wherever_the_run_ends(
    fleet: Fleet, database: str, ends_at: str
):
    await fleet.register()
    async with (
        open_queue(lock_duration_s=LOCK_S) as queue,
        replica_of(fleet, database, "A", queue.emulator.port) as a,
        replica_of(fleet, database, "B", queue.emulator.port) as b,
    ):
        await queue.publish([OutgoingMessage(body=GOOD)])
        first = await a.take()
        second = await b.take()  # once the lock that A believes to have is over
        assert (second.run_id, second.is_new) == (first.run_id, False)
        assert (a.settlement.holding, b.settlement.holding) == (1, 1)
        await finish(fleet, a if ends_at == "A" else b, first.run_id, "complete")
        await eventually(lambda: remaining(queue) == (0, 0), within_s=LOCK_S)
        await eventually(lambda: b.settlement.holding == 0)

        async def noted() -> bool:
            found = await dispositions(fleet, first.run_id)
            return found[1] == "complete" and found[0] in ("lost", "superseded")

        await eventually(noted)
        assert (await fleet.history.get(first.run_id))["executions"] == 1


async def test_a_settlement_lost_at_one_replica_is_made_good_at_another(
    fleet: Fleet, database: str
):
    await fleet.register()
    async with (
        open_queue(lock_duration_s=LOCK_S) as queue,
        LossyBus(queue.emulator.port).served() as bus,
        replica_of(fleet, database, "A", bus.port) as a,
        replica_of(fleet, database, "B", queue.emulator.port) as b,
    ):
        await queue.publish([OutgoingMessage(body=GOOD)])
        first = await a.take()
        bus.lose(Loss.BEFORE_APPLYING)
        await finish(fleet, a, first.run_id, "complete")
        await eventually(lambda: bus.lost[Loss.BEFORE_APPLYING] == 1)
        second = await b.take()
        assert second.verdict is not None
        await eventually(lambda: remaining(queue) == (0, 0))
        await eventually(lambda: _settled(fleet, first.run_id))


async def _settled(fleet: Fleet, run_id: str) -> bool:
    return await dispositions(fleet, run_id) == ["lost", "complete"]
