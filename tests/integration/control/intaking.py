"""A feeder on a real queue, with the services behind it."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bpa.clocks import Clocks, boottime_s
from bpa.connectors import OutgoingMessage
from bpa.control.ingest import Feeder
from bpa.control.intake import Intake, Origin
from bpa.control.replays import Replays
from bpa.control.rooms import Rooms
from bpa.control.settlement import Settlement
from bpa.documents.schema_checks import SchemaCheck
from bpa.domain.executions import Outcome, OutcomeKind
from bpa.domain.runs import RunId
from bpa.postgres import Notifications, fetch_all
from bpa.scheduler.credit import Credit
from bpa.scheduler.rooms import Room
from bpa.telemetry.metrics import Metrics
from bpa.valkey import open_valkey
from tests.integration.connectors.queues import Queue, open_queue
from tests.integration.control.fleet import DEP_ID, Fleet

GOOD = b'{"invoice_id": "A-1", "currency": "EUR", "total": "10.00", "issued_on": "2026-01-02"}'
COMPLETED = Outcome(kind=OutcomeKind.COMPLETED)


@dataclass
class Clock:
    """A wall clock that a test sets wrong."""

    off_s: float = 0.0

    def wall(self) -> float:
        return time.time() + self.off_s


@dataclass
class Intaking:
    """A feeder on a queue, with room as the test says."""

    queue: Queue
    fleet: Fleet
    settlement: Settlement
    feeder: Feeder
    rooms: Rooms
    metrics: Metrics
    clock: Clock

    async def room(self, runs: int) -> None:
        rows = await fetch_all(self.fleet.pool, "select clock_timestamp() as now")
        self.rooms.publish({DEP_ID: Room(runs, rows[0]["now"])})

    async def take(self, count: int) -> None:
        """Receive ``count`` messages, in as many passes as it takes."""
        while count:
            await self.room(count)
            count -= await self.feeder.one_pass()

    async def renew(self) -> None:
        """Renew the lock of every message that is held."""
        for deliveries in self.settlement._held.values():
            for held in deliveries:
                await self.settlement._renew_one(held)

    async def send(self, *bodies: bytes, content_type: str = "application/json") -> None:
        await self.queue.publish(
            [OutgoingMessage(body=body, content_type=content_type) for body in bodies]
        )

    async def runs(self) -> list[dict]:
        rows, _ = await self.fleet.searches.page()
        return rows

    async def finish(self, run_id: RunId, outcome: Outcome = COMPLETED) -> None:
        epoch = await self.fleet.granted(run_id)
        await self.fleet.leases.acknowledge(run_id, epoch)
        await self.fleet.runs.finish(run_id, epoch, outcome)

    async def dispositions(self) -> list[str | None]:
        rows = await fetch_all(
            self.fleet.pool, "select disposition from deliveries order by delivery_id"
        )
        return [row["disposition"] for row in rows]

    def broker(self) -> tuple[int, int, int]:
        """Active, locked and dead-lettered messages, as the broker counts them."""
        queues = self.queue.emulator._broker.queues
        counts = queues["invoices"].counts()
        return counts.active, counts.locked, queues["invoices/$deadletterqueue"].counts().active


@asynccontextmanager
async def intake_of(
    fleet: Fleet,
    database: str,
    valkey_url: str,
    *,
    lock_s: float = 30.0,
    schema: dict | None = None,
) -> AsyncIterator[Intaking]:
    metrics = Metrics()
    notifications = Notifications(database, application_name="test", rng=random.Random(1))
    valkey = await open_valkey(valkey_url, client_name="test")
    await fleet.register()
    async with open_queue(lock_duration_s=lock_s) as queue, asyncio.TaskGroup() as tasks:
        rooms, clock = Rooms(), Clock()
        clocks = Clocks(3.0, clock.wall, boottime_s)
        settlement = Settlement(fleet.runs, notifications, "replica-1", metrics, clocks)
        fleet.runs.on_ended(settlement.ended)
        fleet.leases.on_ended(settlement.ended)
        feeding = (await fleet.deployments.feeding("dev"))[DEP_ID]
        origin = Origin("ns", feeding, queue.source, SchemaCheck(schema) if schema else None)
        intake = Intake(fleet.runs, Replays(fleet.pool), settlement, lambda _: None)
        feeder = Feeder(origin, intake, rooms, Credit(valkey), "replica-1", clocks)
        running = [tasks.create_task(s.run()) for s in (notifications, settlement)]
        yield Intaking(queue, fleet, settlement, feeder, rooms, metrics, clock)
        for task in running:
            task.cancel()
    await valkey.aclose()
