"""Messages become runs and are settled when these end: real queue, Postgres and Valkey."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from bpa.control import ingest
from bpa.control.arrivals import Arrival
from bpa.control.ingest import Feeder
from bpa.control.runs import Received
from bpa.domain.executions import Outcome, OutcomeKind
from bpa.domain.runs import run_id_of
from bpa.errors import BpaError, InvalidRequest, NotFound, Unavailable
from bpa.postgres import fetch_all
from tests.eventually import eventually
from tests.integration.control.fleet import Fleet, arrival
from tests.integration.control.intaking import GOOD, Intaking, intake_of

ONLY_USD = {"properties": {"currency": {"const": "USD"}}}


@pytest_asyncio.fixture
async def intaking(fleet: Fleet, database: str, valkey_url: str) -> AsyncIterator[Intaking]:
    async with intake_of(fleet, database, valkey_url) as intaking:
        yield intaking


async def test_a_message_becomes_a_run_and_is_completed_with_it(intaking: Intaking):
    await intaking.send(GOOD)
    await intaking.take(1)
    (run,) = await intaking.runs()
    assert run["status"] == "queued"
    assert intaking.settlement.holding == 1
    await intaking.finish(run["run_id"])
    await eventually(lambda: intaking.broker() == (0, 0, 0))
    await intaking.settlement.flush()
    assert await intaking.dispositions() == ["complete"]
    ref = (await intaking.fleet.history.get(run["run_id"]))["input_ref"]
    assert run["run_id"] == run_id_of("ns", "invoices", ref["sequence_number"], ref["enqueued_ms"])


async def test_a_run_that_fails_dead_letters_its_message_with_the_reason(intaking: Intaking):
    await intaking.send(GOOD)
    await intaking.take(1)
    (run,) = await intaking.runs()
    rejected = Outcome(kind=OutcomeKind.REJECTED, reason="BudgetExceeded", detail="4,001 tokens")
    await intaking.finish(run["run_id"], rejected)
    await eventually(lambda: intaking.broker() == (0, 0, 1))
    (letter,) = await intaking.queue.dead_letters()
    assert (letter.body, letter.reason, letter.description) == (
        GOOD,
        "BudgetExceeded",
        "4,001 tokens",
    )


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe\xfd", b"[" * 100_000, b'{"a": NaN}'])
async def test_what_cannot_be_decoded_is_dead_lettered_after_one_delivery(
    intaking: Intaking, body: bytes
):
    await intaking.send(body, GOOD)
    await intaking.take(2)
    await eventually(lambda: intaking.broker() == (0, 1, 1))
    (letter,) = await intaking.queue.dead_letters()
    assert letter.reason == "DeserializationError"
    ended = [run for run in await intaking.runs() if run["status"] == "dead_lettered"]
    assert [run["reason"] for run in ended] == ["DeserializationError"]
    deliveries = (await intaking.fleet.history.get(ended[0]["run_id"]))["deliveries"]
    assert [(d["delivery_count"], d["disposition"]) for d in deliveries] == [(0, "dead_letter")]


async def test_a_schema_that_the_deployment_demands_is_checked_on_arrival(
    fleet: Fleet, database: str, valkey_url: str
):
    async with intake_of(fleet, database, valkey_url, schema=ONLY_USD) as intaking:
        await intaking.send(GOOD)
        await intaking.take(1)
        await eventually(lambda: intaking.broker() == (0, 0, 1))
        (letter,) = await intaking.queue.dead_letters()
        assert letter.reason == "SchemaValidationFailed"


async def test_no_more_is_taken_than_there_is_room_for(intaking: Intaking):
    await intaking.send(*[GOOD] * 5)
    await intaking.take(2)
    assert intaking.broker() == (3, 2, 0)
    assert await intaking.feeder.one_pass() == 0  # the room of before is used up
    await intaking.room(0)
    waiting = asyncio.ensure_future(intaking.feeder.one_pass())
    done, _ = await asyncio.wait({waiting}, timeout=0.2)
    assert not done
    await intaking.room(1)
    assert await waiting == 1
    assert intaking.broker() == (2, 3, 0)


async def test_a_second_delivery_joins_its_run_and_both_are_settled(intaking: Intaking):
    await intaking.send(GOOD)
    await intaking.take(1)
    (run,) = await intaking.runs()
    (held,) = intaking.settlement._held[run["run_id"]]
    await held.source.abandon(held.message)
    await intaking.take(1)
    assert len(await intaking.runs()) == 1
    await intaking.finish(run["run_id"])
    await eventually(lambda: intaking.broker() == (0, 0, 0))
    await intaking.settlement.flush()
    assert await intaking.dispositions() == ["lost", "complete"]


async def test_the_deliveries_of_a_replica_that_died_are_closed_by_a_later_one(
    intaking: Intaking,
):
    await intaking.send(GOOD)
    await intaking.take(1)
    (run,) = await intaking.runs()
    (held,) = intaking.settlement._held.pop(run["run_id"])  # as if its replica had died
    await held.source.abandon(held.message)
    await intaking.take(1)
    assert await intaking.dispositions() == ["superseded", None]
    await intaking.finish(run["run_id"])
    await eventually(lambda: intaking.broker() == (0, 0, 0))
    await intaking.settlement.flush()
    assert await intaking.dispositions() == ["superseded", "complete"]


async def test_deliveries_of_two_messages_of_one_run_leave_each_other_alone(fleet: Fleet):
    first = await fleet.runs.receive(arrival(1))
    other = replace(arrival(1), input_ref={"queue": "invoices", "sequence_number": 2})
    second = await fleet.runs.receive(other)
    assert first.run_id == second.run_id
    await fleet.runs.settled(second.delivery_id, "complete")
    rows = await fetch_all(fleet.pool, "select disposition from deliveries order by delivery_id")
    assert [row["disposition"] for row in rows] == [None, "complete"]


async def test_an_older_delivery_recorded_late_is_closed_with_the_message(fleet: Fleet):
    newer = await fleet.runs.receive(arrival(1, delivery_count=1))
    await fleet.runs.receive(arrival(1, delivery_count=0))
    rows = await fetch_all(fleet.pool, "select disposition from deliveries order by delivery_id")
    assert [row["disposition"] for row in rows] == [None, None], "the newer one lives"
    await fleet.runs.settled(newer.delivery_id, "complete")
    rows = await fetch_all(fleet.pool, "select disposition from deliveries order by delivery_id")
    assert [row["disposition"] for row in rows] == ["complete", "superseded"]


async def test_a_delivery_after_the_end_is_settled_at_once(intaking: Intaking):
    await intaking.send(GOOD)
    await intaking.take(1)
    (run,) = await intaking.runs()
    (held,) = intaking.settlement._held.pop(run["run_id"])
    await intaking.finish(run["run_id"])
    await held.source.abandon(held.message)
    assert intaking.broker() == (1, 0, 0)
    await intaking.take(1)
    await eventually(lambda: intaking.broker() == (0, 0, 0))
    assert (await intaking.fleet.history.get(run["run_id"]))["executions"] == 1


async def test_a_lock_is_renewed_for_as_long_as_the_run_lives(
    fleet: Fleet, database: str, valkey_url: str
):
    async with intake_of(fleet, database, valkey_url, lock_s=3.0) as intaking:
        await intaking.send(GOOD)
        await intaking.take(1)

        def renewed() -> float:
            value = intaking.metrics.registry.get_sample_value(
                "bpa_lock_renewals_total", {"result": "ok"}
            )
            return value or 0.0

        await eventually(lambda: renewed() >= 3, within_s=20)
        assert intaking.broker() == (0, 1, 0)
        (run,) = await intaking.runs()
        await intaking.finish(run["run_id"])
        await eventually(lambda: intaking.broker() == (0, 0, 0))
        await intaking.settlement.flush()
        assert await intaking.dispositions() == ["complete"]


async def test_an_end_written_by_another_replica_is_heard_of(intaking: Intaking):
    await intaking.send(GOOD)
    await intaking.take(1)
    (run,) = await intaking.runs()
    epoch = await intaking.fleet.granted(run["run_id"])
    await intaking.fleet.leases.acknowledge(run["run_id"], epoch)
    end = """with ended as (update runs set status = 'completed', ended_at = now()
        where run_id = %(id)s returning run_id)
        select pg_notify('run_ended', run_id::text) from ended"""
    await fetch_all(intaking.fleet.pool, end, id=run["run_id"])
    await eventually(lambda: intaking.broker() == (0, 0, 0), within_s=4)


async def test_a_replica_whose_clock_is_wrong_takes_no_message_until_it_is_right(
    intaking: Intaking,
):
    await intaking.send(GOOD)
    await intaking.take(1)
    await intaking.renew()  # which tells what the broker's clock is
    await intaking.send(GOOD)
    await intaking.room(1)
    for off_s in (60.0, -60.0):
        intaking.clock.off_s = off_s
        assert await intaking.feeder.one_pass() == 0
        assert intaking.broker() == (1, 1, 0)
    intaking.clock.off_s = 0.0
    await intaking.take(1)
    assert intaking.broker() == (0, 2, 0)


async def test_a_message_and_its_renewed_lock_tell_that_our_clock_is_wrong(
    fleet: Fleet, database: str, valkey_url: str
):
    for off_s, says in ((60.0, "ahead of the broker's"), (-60.0, "behind the broker's")):
        async with intake_of(fleet, database, valkey_url, lock_s=30.0) as intaking:
            intaking.clock.off_s = off_s
            await intaking.send(GOOD)
            await intaking.room(1)
            assert await intaking.feeder.one_pass() == 1, "nothing said so before"
            await intaking.renew()
            assert says in str(intaking.feeder._clocks.trouble())


async def test_what_is_held_at_shutdown_goes_back_to_the_queue(intaking: Intaking):
    await intaking.send(GOOD, GOOD)
    await intaking.take(2)
    assert intaking.broker() == (0, 2, 0)
    await intaking.settlement.abandon_all()
    assert intaking.broker() == (2, 0, 0)
    assert await intaking.dispositions() == ["abandon", "abandon"]


class Refusing:
    """Runs that record nothing."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    async def receive(self, arrival: Arrival) -> Received:
        raise self.error


@pytest.mark.parametrize("error", [Unavailable("away"), InvalidRequest("out of range")])
async def test_what_cannot_be_recorded_goes_back_and_waits_for_a_newer_room(
    intaking: Intaking, monkeypatch: pytest.MonkeyPatch, error: BpaError
):
    monkeypatch.setattr(intaking.fleet.runs, "receive", Refusing(error).receive)
    await intaking.send(GOOD)
    await intaking.room(8)
    assert await intaking.feeder.one_pass() == 1
    assert intaking.broker() == (1, 0, 0)
    monkeypatch.undo()
    again = asyncio.ensure_future(intaking.feeder.one_pass())
    assert not (await asyncio.wait({again}, timeout=0.2))[0]
    await intaking.room(8)
    assert await again == 1
    assert intaking.settlement.holding == 1


async def test_a_message_whose_recording_is_cancelled_goes_back(
    intaking: Intaking, monkeypatch: pytest.MonkeyPatch
):
    reached = asyncio.Event()

    async def never(_: Arrival) -> Received:
        reached.set()
        return await asyncio.Future()

    monkeypatch.setattr(intaking.fleet.runs, "receive", never)
    await intaking.send(GOOD)
    await intaking.room(8)
    taking = asyncio.ensure_future(intaking.feeder.one_pass())
    await reached.wait()
    taking.cancel()
    await asyncio.wait({taking})
    assert intaking.broker() == (1, 0, 0)


async def test_an_interruption_leaves_the_links_of_held_messages_alone(
    intaking: Intaking, monkeypatch: pytest.MonkeyPatch
):
    await intaking.send(GOOD)
    await intaking.take(1)
    interrupted = asyncio.Event()

    async def fail(_: Feeder) -> int:
        if not interrupted.is_set():
            interrupted.set()
            raise Unavailable("one link is down")
        return await asyncio.Future()

    async def opened() -> None:
        """Do nothing: the queue's source is open."""

    monkeypatch.setattr(Feeder, "one_pass", fail)
    monkeypatch.setattr(intaking.queue.source, "open", opened)
    feeding = asyncio.ensure_future(intaking.feeder.run())
    await interrupted.wait()
    await asyncio.wait({feeding}, timeout=0.1)
    feeding.cancel()
    await asyncio.wait({feeding})
    (run,) = await intaking.runs()
    await intaking.finish(run["run_id"])
    await eventually(lambda: intaking.broker() == (0, 0, 0))
    await intaking.settlement.flush()
    assert await intaking.dispositions() == ["complete"]


async def test_what_interrupts_feeding_is_said_once_until_it_changes(
    intaking: Intaking, monkeypatch: pytest.MonkeyPatch
):
    missing, away = NotFound("queue 'q' does not exist"), Unavailable("it does not answer")
    troubles: list[BpaError | None] = [missing] * 5 + [away] * 3 + [missing, None, away]
    pauses: list[float] = []

    async def one_pass(_: Feeder) -> int:
        if not troubles:
            return await asyncio.Future()
        trouble = troubles.pop(0)
        if trouble is not None:
            raise trouble
        return 1

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def opened() -> None:
        """Do nothing: the queue's source is open."""

    monkeypatch.setattr(Feeder, "one_pass", one_pass)
    monkeypatch.setattr(intaking.queue.source, "open", opened)
    monkeypatch.setattr(ingest, "asyncio", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(ingest, "random", SimpleNamespace(random=lambda: 0.5))
    with capture_logs() as logged:
        feeding = asyncio.ensure_future(intaking.feeder.run())
        await eventually(lambda: not troubles)
        feeding.cancel()
        await asyncio.wait({feeding})
    told = [
        (line["event"], line.get("error")) for line in logged if line["event"].startswith("feeding")
    ]
    assert told == [
        ("feeding", None),
        ("feeding_interrupted", str(missing)),
        ("feeding_interrupted", str(away)),
        ("feeding_interrupted", str(missing)),
        ("feeding_resumed", None),
        ("feeding_interrupted", str(away)),
    ]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 10.0, 1.0, 1.0, 1.0, 1.0, 1.0], "people take their time"
