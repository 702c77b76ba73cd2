"""The life of a run in Postgres."""

import asyncio
from datetime import UTC, datetime, timedelta

import msgspec
import psycopg.errors
import pytest
from msgspec.structs import replace

from bpa.control.rest.run_schemas import Run
from bpa.control.runs import Ended
from bpa.domain.executions import Outcome, OutcomeKind
from bpa.domain.journal import EffectCall, ModelCall, Step, StepKind, Usage
from bpa.domain.runs import RunId
from bpa.errors import Conflict, InvalidRequest, NotFound, Reason, StaleLease
from bpa.postgres import fetch_all
from tests.integration.control.fleet import PRICE, Fleet, arrival

USAGE = Usage(input_tokens=100, output_tokens=20, cost_usd="0.0006", price=PRICE)
COMPLETED = Outcome(kind=OutcomeKind.COMPLETED, result={"status": 201}, worked_s=0.5)


def step(seq: int = 0, **changes: object) -> Step:
    values = {"seq": seq, "kind": StepKind.MODEL, "digest": f"d{seq}", "started_at_ms": 1000}
    return Step(**{**values, **changes})


async def calls(fleet: Fleet, run_id: RunId) -> list[ModelCall | EffectCall | None]:
    return [one.call for one in Run.of(await fleet.history.get(run_id)).steps]


async def test_a_message_becomes_one_run_and_each_delivery_is_noted(fleet: Fleet):
    first = await fleet.runs.receive(arrival())
    second = await fleet.runs.receive(arrival(delivery_count=1))
    assert (first.is_new, second.is_new) == (True, False)
    assert first.run_id == second.run_id
    run = await fleet.history.get(first.run_id)
    assert [d["delivery_count"] for d in run["deliveries"]] == [0, 1]
    assert run["waiting_reason"]


async def test_deliveries_of_one_message_in_one_batch_make_one_run(fleet: Fleet):
    received = await asyncio.gather(*(fleet.runs.receive(arrival()) for _ in range(20)))
    assert len({r.run_id for r in received}) == 1
    assert len({r.delivery_id for r in received}) == 20
    assert all(r.verdict is None for r in received)


async def test_a_message_that_cannot_be_decoded_gets_a_run_that_has_ended(fleet: Fleet):
    received = await fleet.runs.receive(
        arrival(reason=Reason.DESERIALIZATION_ERROR, detail="truncated", document=b"")
    )
    assert received.verdict is not None
    assert (received.verdict.reason, received.verdict.detail) == (
        "DeserializationError",
        "truncated",
    )
    run = await fleet.history.get(received.run_id)
    assert (run["status"], run["executions"]) == ("dead_lettered", 0)
    assert run["ended_at"] is not None


async def test_a_second_delivery_of_an_ended_run_brings_its_verdict(fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running()
    await fleet.runs.finish(run_id, epoch, COMPLETED)
    again = await fleet.runs.receive(arrival(delivery_count=1))
    assert again.verdict is not None
    assert again.verdict.completed


async def test_a_completed_run_has_its_cost_from_the_journal(fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running()
    await fleet.runs.record_step(run_id, epoch, step(0, reserved_tokens=900))
    await fleet.runs.record_step(
        run_id, epoch, step(0, answer=b"{}", usage=USAGE, ended_at_ms=2000)
    )
    await fleet.runs.finish(run_id, epoch, COMPLETED)
    run = await fleet.history.get(run_id)
    assert run["status"] == "completed"
    assert run["costs"] == {
        "tokens_in": 100,
        "tokens_out": 20,
        "usd": "0.0006",
        "unpriced_tokens": 0,
        "unknown_calls": 0,
        "unknown_tokens": 0,
    }
    assert [(s["seq"], s["answered"]) for s in run["steps"]] == [(0, True)]
    assert run["lease_expires_at"] is None


async def test_a_stale_epoch_changes_nothing(fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running()
    await fleet.expire(run_id)
    assert await fleet.leases.reap() == 1
    before = await fleet.history.get(run_id)
    for write in (
        fleet.runs.record_step(run_id, epoch, step()),
        fleet.runs.finish(run_id, epoch, COMPLETED),
        fleet.runs.progress(run_id, epoch, "think"),
        fleet.leases.acknowledge(run_id, epoch),
    ):
        with pytest.raises(StaleLease):
            await write
    assert await fleet.history.get(run_id) == before
    assert before["status"] == "queued"


async def test_the_same_outcome_twice_is_answered_alike_and_told_once(fleet: Fleet):
    await fleet.register()
    ended = []
    fleet.runs.on_ended(ended.append)
    run_id, epoch = await fleet.running()
    await fleet.runs.finish(run_id, epoch, COMPLETED)
    await fleet.runs.finish(run_id, epoch, COMPLETED)
    assert [e.verdict.run_id for e in ended] == [run_id]


async def test_the_same_step_twice_in_one_batch_is_recorded_once(fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running()
    await asyncio.gather(*(fleet.runs.record_step(run_id, epoch, step()) for _ in range(5)))
    assert len((await fleet.history.get(run_id))["steps"]) == 1


async def test_an_effect_keeps_the_bytes_of_its_first_intent(fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running()
    intent = step(0, kind=StepKind.EFFECT, intent=b"first", effect_key="k")
    await fleet.runs.record_step(run_id, epoch, intent)
    other = step(0, kind=StepKind.EFFECT, intent=b"other", effect_key="k")
    with pytest.raises(Conflict, match="other bytes"):
        await fleet.runs.record_step(run_id, epoch, other)
    await fleet.expire(run_id)
    await fleet.leases.reap()
    epoch = await fleet.granted(run_id)
    stream = fleet.offers.stream("node-1", "boot-1")
    offer = await anext(stream)
    await stream.aclose()
    assert [(s.intent, s.effect_key, s.answer) for s in offer.run.journal] == [
        (b"first", "k", None)
    ]
    assert (offer.run.execution, offer.epoch) == (2, epoch)


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "other"},
        {"kind": StepKind.EFFECT},
        {"intent": b"bytes"},
        {"effect_key": "k", "kind": StepKind.EFFECT},
        {"answer": b"other", "usage": USAGE, "ended_at_ms": 3000},
    ],
)
async def test_a_step_that_is_recorded_otherwise_is_a_conflict_and_changes_nothing(
    fleet: Fleet, changes: dict[str, object]
):
    await fleet.register()
    run_id, epoch = await fleet.running()
    recorded = step(0, answer=b"{}", usage=USAGE, ended_at_ms=2000)
    await fleet.runs.record_step(run_id, epoch, recorded)
    before = await fleet.history.get(run_id)
    other = msgspec.structs.replace(recorded, **changes)
    told = await asyncio.gather(
        fleet.runs.record_step(run_id, epoch, other),
        fleet.runs.record_step(run_id, epoch, recorded),
        fleet.runs.record_step(run_id, epoch - 1, other),
        return_exceptions=True,
    )
    assert [type(answer) for answer in told] == [Conflict, type(None), StaleLease]
    assert await fleet.history.get(run_id) == before


async def test_a_step_says_of_its_call_what_was_asked_then_what_came_back(fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running()
    asked = ModelCall(provider="p", model="m", max_tokens=9, reserved_usd="0.5")
    heard = replace(asked, tries=2, response_id="r", response_model="m-1", finish_reasons=["stop"])
    lost, answered = step(0, call=asked), step(1, call=heard, answer=b"{}", usage=USAGE)
    await fleet.runs.record_step(run_id, epoch, lost)
    await fleet.runs.record_step(run_id, epoch, replace(answered, call=asked, answer=None))
    await fleet.runs.record_step(run_id, epoch, answered)
    await fleet.runs.record_step(run_id, epoch, replace(answered, call=asked))  # late, or forged
    refused = step(2, call=replace(asked, tries=4), answer=b"")
    await fleet.runs.record_step(run_id, epoch, refused)
    sent = EffectCall(host="https://erp:443", method="POST")
    effect = step(3, kind=StepKind.EFFECT, intent=b"body", effect_key="k", call=sent)
    await fleet.runs.record_step(run_id, epoch, effect)
    assert await calls(fleet, run_id) == [asked, heard, refused.call, sent]
    moved = EffectCall(host="https://erp-2:443", method="POST", status=201, tries=1)
    applied = replace(effect, answer=b"{}", call=moved)
    await fleet.runs.finish(run_id, epoch, replace(COMPLETED, effect=applied))
    assert await calls(fleet, run_id) == [asked, heard, refused.call, moved]


async def test_what_was_said_of_a_call_is_inherited_and_offered(fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running()
    call = ModelCall(provider="p", model="m", max_tokens=9, response_id="r")
    await fleet.runs.record_step(run_id, epoch, step(0, call=call, answer=b"{}", usage=USAGE))
    await fleet.runs.record_step(run_id, epoch, step(1))  # of a node of an earlier release
    await fleet.runs.finish(run_id, epoch, replace(COMPLETED, kind=OutcomeKind.HANDED_BACK))
    await fleet.granted(run_id)
    (offer,) = await fleet.offers.pull("node-1", "boot-1", 5.0, 1)
    assert [one.call for one in offer.run.journal] == [call, None]
    assert [one.usage for one in offer.run.journal] == [USAGE, Usage()]
    heir = (await fleet.runs.receive(arrival(2, inherits_from=run_id))).run_id
    assert await calls(fleet, heir) == [call]


async def test_each_execution_that_took_a_recorded_answer_is_counted_once_at_its_step(fleet: Fleet):
    await fleet.register()
    run_id = await fleet.queued()
    for replayed in ([], [0], [0]):
        epoch = await fleet.granted(run_id)
        await fleet.leases.acknowledge(run_id, epoch)
        if not replayed:
            answered = step(0, answer=b"{}", usage=USAGE, ended_at_ms=2000)
            await fleet.runs.record_step(run_id, epoch, answered)
        handed_back = Outcome(kind=OutcomeKind.HANDED_BACK, replayed=replayed)
        await fleet.runs.finish(run_id, epoch, handed_back)
        await fleet.runs.finish(run_id, epoch, handed_back)  # its answer was lost on the way
    run = await fleet.history.get(run_id)
    assert [s["replays"] for s in run["steps"]] == [2]
    assert run["cost_usd"] == "0.0006"


async def test_calls_that_lost_their_answer_are_counted_beside_the_cost(fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running()
    for seq in (0, 1):
        await fleet.runs.record_step(run_id, epoch, step(seq, reserved_tokens=900))
    answered = step(2, answer=b"{}", usage=USAGE, ended_at_ms=2000, reserved_tokens=900)
    await fleet.runs.record_step(run_id, epoch, answered)
    await fleet.runs.record_step(run_id, epoch, step(3, answer=b"", reserved_tokens=900))
    await fleet.runs.record_step(
        run_id, epoch, step(4, kind=StepKind.EFFECT, intent=b"body", effect_key="k")
    )
    await fleet.runs.finish(run_id, epoch, COMPLETED)
    run = await fleet.history.get(run_id)
    assert (run["tokens_used"], run["cost_usd"]) == (120, "0.0006")
    assert (run["costs"]["unknown_calls"], run["costs"]["unknown_tokens"]) == (2, 1800)
    (total,) = await fleet.history.totals()
    assert (total["unknown_calls"], total["unknown_tokens"]) == (2, 1800)
    view = Run.of(run)
    assert view.unknown_calls == 2
    states = ["unknown", "unknown", "recorded", "refused", "unanswered"]
    assert [s.state for s in view.steps] == states


async def test_a_key_of_a_run_belongs_to_one_step(fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running()
    intent = step(0, kind=StepKind.EFFECT, intent=b"first", effect_key="k")
    await fleet.runs.record_step(run_id, epoch, intent)
    with pytest.raises(Conflict):
        await fleet.runs.record_step(run_id, epoch, msgspec.structs.replace(intent, seq=1))
    assert [s["seq"] for s in (await fleet.history.get(run_id))["steps"]] == [0]


async def test_an_agent_that_fails_is_executed_three_times_in_all(fleet: Fleet):
    await fleet.register()
    run_id = await fleet.queued()
    failed = Outcome(kind=OutcomeKind.AGENT_FAILED, detail="ValueError: no")
    for execution in (1, 2, 3):
        epoch = await fleet.granted(run_id)
        await fleet.leases.acknowledge(run_id, epoch)
        await fleet.runs.finish(run_id, epoch, failed)
        run = await fleet.history.get(run_id)
        assert run["executions"] == execution
        assert run["agent_failures"] == execution
    assert (run["status"], run["reason"]) == ("dead_lettered", "AttemptsExhausted")


async def test_a_retry_backs_off_and_says_why(fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running()
    await fleet.runs.finish(run_id, epoch, Outcome(kind=OutcomeKind.CRASHED, detail="SIGKILL"))
    run = await fleet.history.get(run_id)
    assert run["status"] == "queued"
    assert "SIGKILL" in run["waiting_reason"]
    assert run["not_before"] > run["created_at"]


async def test_an_unknown_run_is_not_found(fleet: Fleet):
    with pytest.raises(NotFound):
        await fleet.history.get(arrival(99).run_id)
    with pytest.raises(NotFound):
        await fleet.runs.cancel(arrival(99).run_id, "ops", "")


async def test_a_rejection_names_a_reason_of_the_closed_set(fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running()
    with pytest.raises(InvalidRequest):
        await fleet.runs.finish(run_id, epoch, Outcome(kind=OutcomeKind.REJECTED, reason="Bored"))


async def test_pages_follow_each_other_without_gap_or_repeat(fleet: Fleet):
    ids = {await fleet.queued(number) for number in range(1, 8)}
    seen, cursor = [], None
    while True:
        rows, cursor = await fleet.searches.page(cursor=cursor, limit=3)
        seen += [row["run_id"] for row in rows]
        if cursor is None:
            break
    assert sorted(seen) == sorted(ids)
    assert len(seen) == 7
    with pytest.raises(InvalidRequest):
        await fleet.searches.page(cursor="nonsense")


async def test_totals_count_by_status_and_reason(fleet: Fleet):
    await fleet.register()
    await fleet.runs.receive(arrival(1, reason=Reason.DESERIALIZATION_ERROR, detail="x"))
    run_id, epoch = await fleet.running(2)
    await fleet.runs.finish(run_id, epoch, COMPLETED)
    totals = {(row["status"], row["reason"]): row["runs"] for row in await fleet.history.totals()}
    assert totals == {("dead_lettered", "DeserializationError"): 1, ("completed", None): 1}


async def test_an_effects_answer_is_recorded_with_the_outcome(fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running()
    intent = step(1, kind=StepKind.EFFECT, intent=b"body", effect_key="k")
    await fleet.runs.record_step(run_id, epoch, intent)
    applied = msgspec.structs.replace(intent, answer=b'{"status": 201}', ended_at_ms=2000)
    await fleet.runs.finish(run_id, epoch, msgspec.structs.replace(COMPLETED, effect=applied))
    (recorded,) = (await fleet.history.get(run_id))["steps"]
    assert recorded["answered"]
    assert recorded["ended_at"].timestamp() == 2.0


async def test_an_effect_that_ended_unapplied_says_so_until_it_is_sent_again(fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running()
    intent = step(0, kind=StepKind.EFFECT, intent=b"body", effect_key="k")
    unapplied = msgspec.structs.replace(intent, ended_at_ms=2000)
    await fleet.runs.record_step(run_id, epoch, intent)
    await fleet.runs.record_step(run_id, epoch, unapplied)
    assert [s.state for s in Run.of(await fleet.history.get(run_id)).steps] == ["refused"]
    await fleet.runs.finish(run_id, epoch, Outcome(kind=OutcomeKind.HANDED_BACK))
    epoch = await fleet.granted(run_id)
    stream = fleet.offers.stream("node-1", "boot-1")
    offer = await anext(stream)
    await stream.aclose()
    assert offer.run.journal == [unapplied_at(2000, intent)]
    await fleet.leases.acknowledge(run_id, epoch)
    await fleet.runs.record_step(run_id, epoch, intent)
    assert [s.state for s in Run.of(await fleet.history.get(run_id)).steps] == ["in_flight"]


def unapplied_at(ended_at_ms: int, intent: Step) -> Step:
    return msgspec.structs.replace(intent, ended_at_ms=ended_at_ms, started_at_ms=0)


async def test_a_stale_outcome_records_no_answer(fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running()
    intent = step(0, kind=StepKind.EFFECT, intent=b"body", effect_key="k")
    await fleet.runs.record_step(run_id, epoch, intent)
    await fleet.expire(run_id)
    await fleet.leases.reap()
    applied = msgspec.structs.replace(intent, answer=b"{}", ended_at_ms=2000)
    with pytest.raises(StaleLease):
        await fleet.runs.finish(run_id, epoch, msgspec.structs.replace(COMPLETED, effect=applied))
    assert not (await fleet.history.get(run_id))["steps"][0]["answered"]


async def test_a_stale_report_in_the_batch_of_a_good_one_changes_nothing(fleet: Fleet):
    await fleet.register()
    run_id, old = await fleet.running()
    await fleet.expire(run_id)
    await fleet.leases.reap()
    epoch = await fleet.granted(run_id)
    for report in (
        [fleet.leases.acknowledge(run_id, e) for e in (old, epoch)],
        [fleet.runs.record_step(run_id, e, step(e)) for e in (old, epoch)],
        [fleet.runs.record_step(run_id, e, step(9)) for e in (old, epoch)],
        [fleet.runs.finish(run_id, e, COMPLETED) for e in (old, epoch)],
        [fleet.runs.finish(run_id, e, COMPLETED) for e in (old, epoch)],
    ):
        stale, good = await asyncio.gather(*report, return_exceptions=True)
        assert isinstance(stale, StaleLease)
        assert good is None
    assert [s["seq"] for s in (await fleet.history.get(run_id))["steps"]] == [epoch, 9]


async def test_an_outcome_before_the_acknowledgement_is_refused(fleet: Fleet):
    await fleet.register()
    run_id = await fleet.queued()
    epoch = await fleet.granted(run_id)
    with pytest.raises(StaleLease):
        await fleet.runs.finish(run_id, epoch, COMPLETED)
    assert await fleet.status(run_id) == "offered"


async def test_the_holder_of_an_earlier_lease_changes_nothing_while_another_works(fleet: Fleet):
    await fleet.register()
    run_id, stale = await fleet.running()
    await fleet.expire(run_id)
    await fleet.leases.reap()
    epoch = await fleet.granted(run_id)
    await fleet.leases.acknowledge(run_id, epoch)
    before = await fleet.history.get(run_id)
    assert (before["status"], before["lease_epoch"]) == ("running", epoch)
    for write in (
        fleet.runs.record_step(run_id, stale, step()),
        fleet.runs.finish(run_id, stale, COMPLETED),
        fleet.runs.progress(run_id, stale, "think"),
        fleet.leases.acknowledge(run_id, stale),
        fleet.leases.refuse(run_id, stale, "late"),
    ):
        with pytest.raises(StaleLease):
            await write
    assert await fleet.history.get(run_id) == before
    await fleet.runs.finish(run_id, epoch, COMPLETED)
    assert await fleet.status(run_id) == "completed"


async def test_no_duration_is_negative_whatever_the_clocks_say(fleet: Fleet):
    await fleet.register()
    ended: list[Ended] = []
    fleet.runs.on_ended(ended.append)
    ahead = datetime.now(UTC) + timedelta(hours=1)
    run_id = (await fleet.runs.receive(arrival(1, enqueued_at=ahead))).run_id
    epoch = await fleet.granted(run_id)
    await fleet.leases.acknowledge(run_id, epoch)
    intent = Step(seq=0, kind=StepKind.MODEL, digest="d", started_at_ms=5_000)
    answered = replace(intent, answer=b"{}", ended_at_ms=4_000)
    await fleet.runs.record_step(run_id, epoch, intent)
    (row,) = (await fleet.history.get(run_id))["steps"]
    assert row["ended_at"] is None
    await fleet.runs.record_step(run_id, epoch, answered)
    await fleet.runs.record_step(run_id, epoch, replace(answered, seq=1))
    effect = Step(
        seq=2, kind=StepKind.EFFECT, digest="e", intent=b"{}", effect_key="k", started_at_ms=5_000
    )
    await fleet.runs.record_step(run_id, epoch, effect)
    outcome = replace(COMPLETED, effect=replace(effect, answer=b"{}", ended_at_ms=4_000))
    await fleet.runs.finish(run_id, epoch, outcome)
    assert float(ended[0].row["latency_ms"]) == 0
    steps = (await fleet.history.get(run_id))["steps"]
    assert [row["ended_at"] - row["started_at"] for row in steps] == [timedelta(0)] * 3
    assert {row["latency_p50_ms"] for row in await fleet.history.totals()} == {0}
    async with fleet.pool.connection() as connection:
        await connection.execute("update nodes set heartbeat_at = now() + interval '1 hour'")
    assert (await fleet.nodes.get("node-1"))["heartbeat_age_s"] == 0


async def test_the_database_of_these_tests_refuses_a_move_that_is_not_listed(fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running()
    await fleet.runs.finish(run_id, epoch, COMPLETED)
    with pytest.raises(psycopg.errors.RaiseException, match="from completed to queued"):
        await fetch_all(fleet.pool, "update runs set status = 'queued'")
