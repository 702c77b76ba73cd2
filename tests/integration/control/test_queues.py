"""How much waits in the queues that are fed from: real queues, Postgres and REST."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest_asyncio
from msgspec.structs import replace as changed
from structlog.testing import capture_logs

from bpa.connectors.service_bus import Backlog, BacklogReader, Counts, Trouble
from bpa.control.queues import Queues, Reader
from bpa.postgres import fetch_all
from bpa.telemetry.metrics import Metrics
from tests.eventually import eventually
from tests.integration.connectors.backlogs import EXPIRED, QUEUE, Bus, bus, closing
from tests.integration.control.fleet import AGENT, DEPLOYMENT, Fleet

FIVE = Backlog(counts=Counts(active=5, scheduled=0, dead_letters=0), max_delivery_count=10)
GONE = Backlog(trouble=Trouble.NOT_FOUND, detail="there is none")
SILENT = Backlog(trouble=Trouble.UNREADABLE, detail="it does not answer")
NEVER_S = 3600.0
GAUGES = {
    "lag": "sb_queue_lag",
    "age": "bpa_queue_oldest_message_age_seconds",
    "dead": "bpa_queue_dead_letters",
    "estimated": "bpa_queue_lag_estimated",
    "reading": "bpa_queue_reading_age_seconds",
}


@dataclass
class Told(Reader):
    """A reader that says what the test tells it to."""

    backlog: Backlog = FIVE
    asked: list[str] = field(default_factory=list)

    async def read(self, queue: str) -> Backlog:
        self.asked.append(queue)
        return self.backlog


@dataclass
class Replica:
    queues: Queues
    metrics: Metrics
    now_s: list[float]

    def shown(self, gauge: str, queue: str = QUEUE) -> float | None:
        return self.metrics.registry.get_sample_value(GAUGES[gauge], {"queue": queue})

    async def row(self) -> dict:
        (row,) = await self.queues.page()
        return row


def replica(fleet: Fleet, reader: Reader, every_s: float = NEVER_S) -> Replica:
    metrics, now_s = Metrics(), [0.0]
    steady = lambda: now_s[0]  # noqa: E731
    return Replica(Queues("dev", fleet.pool, reader, metrics, every_s, steady), metrics, now_s)


async def due(fleet: Fleet) -> None:
    """Have every queue's turn come again."""
    await fetch_all(fleet.pool, "update queues set claimed_at = '-infinity'")


async def retire(fleet: Fleet) -> None:
    await fetch_all(fleet.pool, """update deployments set status = '{"active": false}'""")


@pytest_asyncio.fixture
async def one() -> AsyncIterator[Bus]:
    async with bus() as one:
        yield one


@asynccontextmanager
async def measuring(fleet: Fleet, reader: BacklogReader) -> AsyncIterator[Replica]:
    async with closing(reader):
        yield replica(fleet, reader)


async def test_the_counts_are_true_while_messages_are_locked_scheduled_and_dead(
    fleet: Fleet, one: Bus
):
    await one.one_of_each()
    async with measuring(fleet, one.reader()) as first, one.receiver() as holder:
        assert len(await holder.receive_messages(1)) == 1
        assert await first.queues.one_pass() == 1
        row = await first.row()
    assert (row["active"], row["scheduled"], row["dead_letters"]) == (3, 1, 1)
    assert (row["estimated"], row["trouble"], row["max_delivery_count"]) == (False, None, 10)
    assert 0 <= row["oldest_age_s"] < 30
    assert (first.shown("lag"), first.shown("dead"), first.shown("estimated")) == (3, 1, 0)
    assert first.shown("age") == row["oldest_age_s"]


async def test_two_replicas_measure_once_and_show_the_same(fleet: Fleet):
    reader = Told()
    first, second = replica(fleet, reader), replica(fleet, reader)
    measured = await asyncio.gather(*(one.queues.one_pass() for one in (first, second) * 5))
    assert sum(measured) == 1
    assert reader.asked == [QUEUE]
    for one in (first, second):
        await one.queues.one_pass()
        assert (one.shown("lag"), one.shown("estimated")) == (5, 0)
    assert reader.asked == [QUEUE], "the reading is cached"


async def test_a_reading_is_made_again_when_it_is_old_enough(fleet: Fleet):
    reader = Told()
    first = replica(fleet, reader)
    await first.queues.one_pass()
    await due(fleet)
    reader.backlog = replace(FIVE, counts=Counts(active=0, scheduled=0, dead_letters=2))
    assert await first.queues.one_pass() == 1
    assert (first.shown("lag"), first.shown("age"), first.shown("dead")) == (0, 0, 2)


async def test_a_key_without_the_manage_right_shows_an_estimate(fleet: Fleet, one: Bus):
    await one.send(2)
    async with measuring(fleet, one.reader(EXPIRED)) as first:
        await first.queues.one_pass()
    assert (first.shown("lag"), first.shown("estimated")) == (2, 1)
    row = await first.row()
    assert (row["estimated"], row["trouble"]) == (True, "administration_refused")
    assert "needs the Manage right" in row["detail"]


async def test_the_age_of_a_reading_goes_on_where_no_reading_is_made(fleet: Fleet):
    first = replica(fleet, Told())
    await first.queues.one_pass()
    assert 0 <= first.shown("reading") < 5
    first.now_s[0] += 100
    assert 100 <= first.shown("reading") < 105


async def test_a_reading_that_fails_leaves_the_numbers_and_their_time(fleet: Fleet):
    reader = Told()
    first = replica(fleet, reader)
    await first.queues.one_pass()
    before = await first.row()
    reader.backlog = SILENT
    await due(fleet)
    await first.queues.one_pass()
    after = await first.row()
    assert (after["active"], after["measured_at"]) == (5, before["measured_at"])
    assert (after["trouble"], after["detail"]) == ("unreadable", "it does not answer")
    assert first.shown("lag") == 5


async def test_a_queue_that_is_gone_has_no_numbers_but_an_age_without_them(fleet: Fleet):
    reader = Told()
    first = replica(fleet, reader)
    await first.queues.one_pass()
    reader.backlog = GONE
    await due(fleet)
    await first.queues.one_pass()
    row = await first.row()
    assert (row["active"], row["measured_at"], row["max_delivery_count"]) == (None, None, None)
    assert row["trouble"] == "queue_not_found"
    assert [first.shown(gauge) for gauge in ("lag", "age", "dead", "estimated")] == [None] * 4
    assert first.shown("reading") is not None


async def test_an_age_that_is_not_known_is_not_shown_as_none(fleet: Fleet):
    reader = Told(replace(FIVE, trouble=Trouble.AGE_UNKNOWN, detail="disabled"))
    first = replica(fleet, reader)
    await first.queues.one_pass()
    assert (first.shown("lag"), first.shown("age")) == (5, None)


async def test_the_series_of_a_queue_that_nobody_feeds_from_go_away(fleet: Fleet):
    first = replica(fleet, Told())
    await first.queues.one_pass()
    await retire(fleet)
    assert await first.queues.one_pass() == 0
    assert [first.shown(gauge) for gauge in GAUGES] == [None] * 5
    assert await fetch_all(fleet.pool, "select * from queues") == []


async def test_a_replica_measures_the_queues_of_its_environment_alone(fleet: Fleet):
    await fleet.deployments.create(changed(DEPLOYMENT, environment="prod", queue="prod-invoices"))
    reader = Told()
    first = replica(fleet, reader)
    await first.queues.one_pass()
    assert reader.asked == [QUEUE]
    assert first.shown("reading", "prod-invoices") is None


async def test_trouble_costs_one_line_when_it_begins_and_one_when_it_ends(fleet: Fleet):
    reader = Told()
    replicas = [replica(fleet, reader), replica(fleet, reader)]
    with capture_logs() as logs:
        for backlog in (FIVE, SILENT, SILENT, SILENT, FIVE, FIVE):
            reader.backlog = backlog
            await due(fleet)
            for one in replicas:
                await one.queues.one_pass()
    told = [(line["event"], line.get("detail")) for line in logs]
    assert told == [
        ("queue_reading_troubled", "it does not answer"),
        ("queue_reading_well", None),
    ]


async def test_a_max_delivery_count_below_ten_is_warned_of_once_and_shown(fleet: Fleet):
    async with bus(max_delivery_count=3) as one, measuring(fleet, one.reader()) as first:
        with capture_logs() as logs:
            for _ in range(3):
                await due(fleet)
                await first.queues.one_pass()
    assert [line["event"] for line in logs if line["event"].startswith("max")] == [
        "max_delivery_count_low"
    ]
    row = await first.row()
    assert (row["max_delivery_count"], row["max_delivery_count_low"]) == (3, True)


async def test_a_queue_that_does_not_answer_holds_up_no_other(fleet: Fleet):
    other = "other-invoices"
    await fleet.agents.create(changed(AGENT, agent_id="other"))
    await fleet.deployments.create(changed(DEPLOYMENT, agent_id="other", queue=other))

    class Hanging(Told):
        async def read(self, queue: str) -> Backlog:
            if queue == QUEUE:
                await asyncio.Event().wait()
            return FIVE

    first = replica(fleet, Hanging(), every_s=4.0)
    passing = asyncio.ensure_future(first.queues.one_pass())

    async def written() -> bool:
        return {row["queue"]: row["active"] for row in await first.queues.page()}[other] == 5

    await eventually(written, within_s=1.5)
    assert not passing.done()
    await passing
    rows = {row["queue"]: row for row in await first.queues.page()}
    assert rows[QUEUE]["detail"] == "the broker does not answer within 2 s"
    assert first.shown("lag", other) == 5


async def test_a_reading_that_comes_too_late_does_not_overwrite_a_newer_one(fleet: Fleet):
    entered, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Told):
        async def read(self, queue: str) -> Backlog:
            entered.set()
            await go_on.wait()
            return SILENT

    slow, quick = replica(fleet, Slow()), replica(fleet, Told())
    late = asyncio.ensure_future(slow.queues.one_pass())
    await entered.wait()
    await due(fleet)
    await quick.queues.one_pass()
    go_on.set()
    await late
    assert (await slow.row())["trouble"] is None
