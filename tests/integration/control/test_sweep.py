"""What the broker dead-letters by itself ends as a run: real queue and Postgres."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from unittest.mock import AsyncMock

import pytest
import pytest_asyncio
from msgspec.structs import replace
from structlog.testing import capture_logs

from bpa.connectors.service_bus import DeadLetter, DeadLetterReader, Peek
from bpa.control import sweep
from bpa.control.burials import Burials, Swept
from bpa.control.runs import Ended
from bpa.control.sweep import REST_AT_MOST_S
from bpa.domain.journal import Step, StepKind
from bpa.domain.runs import run_id_of
from bpa.errors import StaleLease, Unavailable
from bpa.postgres import fetch_all
from tests.integration.control import sweeping
from tests.integration.control.fleet import AGENT, DEPLOYMENT, Fleet
from tests.integration.control.intaking import GOOD, Intaking, intake_of
from tests.integration.control.sweeping import sweep_of, use_up


@pytest_asyncio.fixture
async def intaking(fleet: Fleet, database: str, valkey_url: str) -> AsyncIterator[Intaking]:
    async with intake_of(fleet, database, valkey_url) as intaking:
        yield intaking


async def taken(intaking: Intaking) -> str:
    """Have a message become a run whose message nobody holds any more."""
    await intaking.send(GOOD)
    await intaking.take(1)
    await intaking.settlement.abandon_all()
    (run,) = await intaking.runs()
    return run["run_id"]


async def test_a_message_that_never_became_a_run_is_recorded_as_one(intaking: Intaking):
    await intaking.send(GOOD)
    await use_up(intaking)
    assert await sweep_of(intaking).one_pass() == Swept(recorded=1)
    (listed,) = await intaking.runs()
    run = await intaking.fleet.history.get(listed["run_id"])
    assert (run["status"], run["reason"]) == ("dead_lettered", "MaxDeliveryCountExceeded")
    ref = run["input_ref"]
    assert run["run_id"] == run_id_of("ns", "invoices", ref["sequence_number"], ref["enqueued_ms"])
    assert ref["excerpt"].startswith('{"invoice_id"')
    assert await intaking.dispositions() == ["dead_letter"]
    assert await sweep_of(intaking).one_pass() == Swept()


async def test_a_run_that_waits_ends_with_the_brokers_reason(intaking: Intaking):
    run_id = await taken(intaking)
    await use_up(intaking)
    assert await sweep_of(intaking).one_pass() == Swept(ended=1)
    run = await intaking.fleet.history.get(run_id)
    assert (run["status"], run["reason"]) == ("dead_lettered", "MaxDeliveryCountExceeded")


async def test_who_works_on_the_run_is_fenced_before_its_effect(intaking: Intaking):
    run_id = await taken(intaking)
    epoch = await intaking.fleet.granted(run_id)
    await intaking.fleet.leases.acknowledge(run_id, epoch)
    model = Step(seq=0, kind=StepKind.MODEL, digest="m", answer=b"{}")
    await intaking.fleet.runs.record_step(run_id, epoch, model)
    await use_up(intaking)
    assert await sweep_of(intaking).one_pass() == Swept(ended=1)
    effect = Step(seq=1, kind=StepKind.EFFECT, digest="e", intent=b"{}", effect_key="k")
    with pytest.raises(StaleLease):
        await intaking.fleet.runs.record_step(run_id, epoch, effect)
    assert await fetch_all(intaking.fleet.pool, "select 1 from leases") == []


async def test_an_effect_that_may_have_been_applied_shows_as_such(intaking: Intaking):
    run_id = await taken(intaking)
    epoch = await intaking.fleet.granted(run_id)
    await intaking.fleet.leases.acknowledge(run_id, epoch)
    effect = Step(seq=0, kind=StepKind.EFFECT, digest="e", intent=b"{}", effect_key=f"{run_id}:1")
    await intaking.fleet.runs.record_step(run_id, epoch, effect)
    await use_up(intaking)
    await sweep_of(intaking).one_pass()
    detail = (await intaking.fleet.history.get(run_id))["detail"]
    assert detail.endswith(f"an effect may have been applied under the key {run_id}:1")


async def test_a_run_that_completed_first_stays_completed(intaking: Intaking):
    run_id = await taken(intaking)
    await use_up(intaking)
    await intaking.finish(run_id)
    assert await sweep_of(intaking).one_pass() == Swept()
    assert (await intaking.fleet.history.get(run_id))["status"] == "completed"


@pytest.mark.parametrize("ended", ["by the sweep", "before"])
async def test_deliveries_whose_replica_died_are_over_with_their_message(
    intaking: Intaking, ended: str
):
    run_id = await taken(intaking)
    await use_up(intaking)
    # the replica died before it could give the message back, of which an earlier release kept no
    # number
    died = "update deliveries set settled_at = null, disposition = null"
    if ended == "before":
        died += ", sequence_number = null"
        await intaking.finish(run_id)
    await fetch_all(intaking.fleet.pool, f"{died} returning 1")
    await sweep_of(intaking).one_pass()
    assert await intaking.dispositions() == ["dead_letter"]


async def test_a_run_that_the_sweep_ends_never_took_less_than_no_time(intaking: Intaking):
    ended: list[Ended] = []
    intaking.fleet.runs.on_ended(ended.append)
    await taken(intaking)
    ahead = "update runs set enqueued_at = now() + interval '1 minute' returning 1"
    await fetch_all(intaking.fleet.pool, ahead)
    await use_up(intaking)
    await sweep_of(intaking).one_pass()
    assert [one.row["latency_ms"] for one in ended] == [0]


async def test_a_strangers_reason_is_quoted_and_not_taken_over(intaking: Intaking):
    await intaking.send(GOOD)
    message = await intaking.queue.source.receive(10)
    assert message is not None
    await intaking.queue.source.dead_letter(message, "Poked", "by\nhand")
    assert await sweep_of(intaking).one_pass() == Swept(recorded=1)
    (run,) = await intaking.runs()
    assert run["reason"] == "DeadLetteredElsewhere"
    detail = (await intaking.fleet.history.get(run["run_id"]))["detail"]
    assert detail == "the message was dead-lettered without the platform: Poked: by hand"


async def test_a_queue_that_is_out_of_reach_keeps_no_other_waiting(intaking: Intaking):
    await intaking.fleet.agents.create(replace(AGENT, agent_id="another"))
    other = replace(DEPLOYMENT, agent_id="another", queue="a-queue-that-is-not-there")
    await intaking.fleet.deployments.create(other)
    await intaking.send(GOOD)
    await use_up(intaking)
    with capture_logs() as logs:
        assert await sweep_of(intaking).one_pass() == Swept(recorded=1)
    assert [e["queue"] for e in logs if e["event"] == "sweep_cut_short"] == [other.queue]


async def test_replicas_take_turns(intaking: Intaking):
    first, second = sweep_of(intaking, 60.0), sweep_of(intaking, 60.0)
    await intaking.send(GOOD)
    await use_up(intaking)
    assert await first.one_pass() == Swept(recorded=1)
    await fetch_all(intaking.fleet.pool, "delete from runs returning 1")
    assert await second.one_pass() == Swept()
    await fetch_all(
        intaking.fleet.pool, "update sweeps set swept_at = now() - interval '1 h' returning 1"
    )
    assert await second.one_pass() == Swept(recorded=1)


class Counting(DeadLetterReader):
    """A reader that keeps what was looked at."""

    looked_at: list[int]

    @asynccontextmanager
    async def peeking(self) -> AsyncIterator[Peek]:
        async with super().peeking() as peek:

            async def counted(most: int, first: int) -> list[DeadLetter]:
                page = await peek(most, first)
                self.looked_at += [letter.message.sequence_number for letter in page]
                return page

            yield counted


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What sweeps look at; emptied by the test."""
    numbers: list[int] = []
    monkeypatch.setattr(Counting, "looked_at", numbers, raising=False)
    monkeypatch.setattr(sweeping, "DeadLetterReader", Counting)
    return numbers


async def bury(intaking: Intaking, *numbers: int) -> None:
    """Have the broker move these of the messages that wait."""
    source, others = intaking.queue.source, []
    left = {*numbers}
    while left:
        message = await source.receive(10)
        assert message is not None
        if message.sequence_number in left:
            left.remove(message.sequence_number)
            await source.dead_letter(message, "MaxDeliveryCountExceeded", "10 times")
        else:
            others.append(message)
    for other in others:
        await source.abandon(other)


async def test_letters_that_are_known_are_not_read_again_and_a_lower_number_is(
    intaking: Intaking, looked_at: list[int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sweep, "PAGE", 2)
    sweeps = sweep_of(intaking)
    await intaking.send(*[GOOD] * 8)
    await bury(intaking, 1, 2, 3, 5, 6, 7)
    assert await sweeps.one_pass() == Swept(recorded=6)
    await sweeps.one_pass()
    looked_at.clear()
    await sweeps.one_pass()
    assert looked_at == [5, 6, 7, 1, 2], "what may be new from 4 on, and a page of the others"
    looked_at.clear()
    await bury(intaking, 4)
    assert await sweeps.one_pass() == Swept(recorded=1)
    assert looked_at == [4, 5, 6, 7, 3, 4]
    for _ in range(2):
        looked_at.clear()
        assert await sweeps.one_pass() == Swept()
    assert looked_at == [3, 4], "from 8 on there is nothing, and the check goes on"


async def test_a_sweep_that_was_cut_short_begins_where_it_began(
    intaking: Intaking, looked_at: list[int], monkeypatch: pytest.MonkeyPatch
):
    sweeps = sweep_of(intaking)
    await intaking.send(*[GOOD] * 3)
    await bury(intaking, 1, 2)
    for _ in range(2):
        await sweeps.one_pass()
    before = await fetch_all(intaking.fleet.pool, "select new_from, passed from sweeps")
    assert before == [{"new_from": 3, "passed": 3}]
    await bury(intaking, 3)
    with monkeypatch.context() as patched:
        patched.setattr(Burials, "heed", AsyncMock(side_effect=Unavailable("away")))
        assert await sweeps.one_pass() == Swept()
    after = await fetch_all(intaking.fleet.pool, "select new_from, passed, rest_s from sweeps")
    assert after == [{**before[0], "rest_s": 0}], "a turn that was cut short is tried again soon"
    assert await sweeps.one_pass() == Swept(recorded=1)


async def test_a_sweep_that_took_long_is_followed_by_a_long_rest(intaking: Intaking):
    await intaking.send(GOOD)
    await bury(intaking, 1)
    sweeps = sweep_of(intaking, share=0.001)
    assert await sweeps.one_pass() == Swept(recorded=1)
    (row,) = await fetch_all(intaking.fleet.pool, "select rest_s from sweeps")
    assert 1 < row["rest_s"] <= REST_AT_MOST_S
    await fetch_all(intaking.fleet.pool, "delete from runs returning 1")
    assert await sweeps.one_pass() == Swept()
    rested = "update sweeps set swept_at = now() - make_interval(secs => rest_s) returning 1"
    await fetch_all(intaking.fleet.pool, rested)
    assert await sweeps.one_pass() == Swept(recorded=1)
