"""The story of a run, as it is made from what Postgres has of it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpa.control.stages import Stage, closed
from bpa.control.timeline import timeline
from bpa.telemetry.spans import replaying, span_id

RUN_ID = "01a22833-e770-88d3-9f6a-14a27fd0cbdf"
TRACE = "0af7651916cd43dd8448eb211c80319c"
SENDER = f"00-{TRACE}-b7ad6b7169203331-01"
MODEL = {"type": "model", "provider": "anthropic", "model": "m", "max_tokens": 400}
EFFECT = {"type": "effect", "host": "http://erp:80", "method": "POST", "status": 201, "tries": 2}


def at(seconds: float) -> datetime:
    return datetime(2026, 11, 1, tzinfo=UTC) + timedelta(seconds=seconds)


def a_run(**changes: Any) -> dict[str, Any]:
    """Return a run that was received at 1 s and waits for its time to come."""
    return {
        "run_id": RUN_ID,
        "agent_id": "a",
        "agent_name": "A",
        "version": "1",
        "dep_id": "d",
        "node_id": None,
        "status": "queued",
        "reason": None,
        "detail": None,
        "sender": SENDER,
        "input_ref": {"queue": "q", "message_id": "m-1", "enqueued_ms": 5_000},
        "received_at": at(0),
        "created_at": at(1),
        "ended_at": None,
        "waiting_until": at(60),
        "waiting_reason": None,
        "not_before": None,
        "lease_epoch": 0,
        "lease_waiting_since": None,
        "lease_granted_at": None,
        "lease_acknowledged_at": None,
        "replay_of": None,
        "replay_asked_at": None,
        "replay_sent_at": None,
        "replayed_traceparent": None,
        "attempts": [],
        "steps": [],
        "deliveries": [delivery()],
    } | changes


def delivery(**changes: Any) -> dict[str, Any]:
    fields = {"owner": "r-1", "delivery_count": 0, "settled_at": None, "disposition": None}
    return fields | changes


def ended(epoch: int, begins: float, ending: str = "completed", **changes: Any) -> dict[str, Any]:
    """Return a lease of ten seconds, acknowledged after two."""
    return {
        "epoch": epoch,
        "node_id": f"n-{epoch}",
        "waiting_since": at(begins),
        "granted_at": at(begins + 1),
        "acknowledged_at": at(begins + 2),
        "ended_at": at(begins + 10),
        "ending": ending,
        "reason": None,
        "detail": None,
        "timings": {},
        "replayed": [],
        "excess": None,
        "heard": None,
    } | changes


def step(seq: int, begins: float, *, epoch: int = 1, kind: str = "model", **changes: Any) -> Any:
    """Return a step that was answered after a second."""
    return {
        "seq": seq,
        "kind": kind,
        "epoch": epoch,
        "answered_epoch": epoch,
        "answered": True,
        "refused": False,
        "inherited_from": None,
        "usage": {"input_tokens": 5, "cache_read_tokens": 2, "output_tokens": 3},
        "cost_usd": "0.01",
        "call": MODEL if kind == "model" else EFFECT,
        "started_at": at(begins),
        "ended_at": at(begins + 1),
    } | changes


def unanswered(one: dict[str, Any]) -> dict[str, Any]:
    return one | {"answered": False, "answered_epoch": None, "ended_at": None, "usage": None}


def completed(**changes: Any) -> dict[str, Any]:
    settled = delivery(settled_at=at(13), disposition="complete")
    run = {"status": "completed", "ended_at": at(12), "deliveries": [settled]}
    return a_run(**run | changes)


def by_name(stages: list[Stage]) -> dict[str, Stage]:
    named = {stage.name: stage for stage in stages}
    assert len(named) == len(stages), "a name of each"
    return named


def parents(stages: list[Stage]) -> dict[str, str]:
    names = {stage.span_id: stage.name for stage in stages}
    return {stage.name: names.get(stage.parent_id, stage.parent_id) for stage in stages}


ONE_OF_EACH = completed(
    attempts=[ended(1, 1, timings={"sandbox_start": 500.0, "model": 900.0, "http_out": 800.0})],
    steps=[step(0, 4), step(1, 6, kind="effect")],
)


def test_a_completed_run_is_told_from_its_sender_to_its_settlement():
    stages = timeline(ONE_OF_EACH)
    assert parents(stages) == {
        "receive": "b7ad6b7169203331",
        "plan": "receive",
        "lease": "receive",
        "think": "receive",
        "invoke_agent A": "think",
        "chat m": "invoke_agent A",
        "execute_tool post_invoice": "invoke_agent A",
        "http.out": "execute_tool post_invoice",
        "complete": "receive",
    }
    named = by_name(stages)
    times = {name: (stage.started_at, stage.ended_at) for name, stage in named.items()}
    assert times["receive"] == (at(0), at(1))
    assert times["plan"] == (at(1), at(2))
    assert times["lease"] == (at(2), at(3))
    assert times["think"] == (at(3), at(11))
    assert times["invoke_agent A"] == (at(3.5), at(11))
    assert times["chat m"] == (at(4), at(5))
    assert times["http.out"] == (at(6), at(7))
    assert times["complete"] == (at(12), at(13))
    chat = named["chat m"].attributes
    assert (chat["gen_ai.usage.input_tokens"], chat["gen_ai.usage.output_tokens"]) == (7, 3)
    out = named["http.out"].attributes
    assert (out["http.response.status_code"], out["http.request.resend_count"]) == (201, 1)
    assert {stage.node_id for stage in stages} == {"", "n-1"}
    assert not any(stage.error for stage in stages)
    assert closed(stages) == stages


def test_a_second_attempt_is_told_beside_the_first_with_what_it_took_over_marked():
    effect = step(1, 6, kind="effect", answered_epoch=3, ended_at=at(28))
    lost = ended(1, 1, "expired", detail="node n-1 was lost")
    again = ended(3, 20, replayed=[0], timings={"http_out": 500.0, "total": 9000.0})
    stages = timeline(completed(attempts=[lost, again], steps=[step(0, 4), effect]))
    thinks = [stage for stage in stages if stage.name == "think"]
    told = [(think.attempt, think.node_id, think.error) for think in thinks]
    assert told == [(1, "n-1", "expired"), (2, "n-3", "")]
    chats = [stage for stage in stages if stage.name == "chat m"]
    assert [c.attributes.get("bpa.step.replayed", False) for c in chats] == [False, True]
    assert chats[1].started_at == chats[1].ended_at
    outs = [stage for stage in stages if stage.name == "http.out"]
    assert [(o.attempt, o.error) for o in outs] == [(1, "expired"), (2, "")]
    assert (outs[0].started_at, outs[0].ended_at) == (at(6), at(11))
    assert (outs[1].started_at, outs[1].ended_at) == (at(27.5), at(28))
    assert outs[1].span_id == span_id(RUN_ID, "http.out", 3, 1)
    assert len({stage.span_id for stage in stages}) == len(stages)


def test_an_offer_that_was_not_taken_up_is_no_attempt():
    refused = ended(1, 1, "refused", acknowledged_at=None, detail="all slots are taken")
    stages = timeline(a_run(attempts=[refused]))
    assert [(s.name, s.error) for s in stages] == [
        ("receive", ""),
        ("plan", ""),
        ("lease", "refused"),
    ]
    assert stages[2].ended_at == at(11)


def test_a_call_whose_answer_was_lost_ends_with_its_attempt():
    lost = ended(1, 1, "expired")
    chat = timeline(a_run(attempts=[lost], steps=[unanswered(step(0, 4))]))[-1]
    assert (chat.name, chat.ended_at, chat.error) == ("chat m", at(11), "unknown")


def test_a_run_at_work_has_stages_that_go_on_and_only_the_others_are_closed():
    run = a_run(
        status="running",
        node_id="n-1",
        lease_epoch=1,
        lease_waiting_since=at(1),
        lease_granted_at=at(2),
        lease_acknowledged_at=at(3),
        steps=[step(0, 4), unanswered(step(1, 6))],
    )
    stages = timeline(run)
    assert [s.name for s in stages if s.ended_at is None] == ["think", "invoke_agent A", "chat m"]
    assert [s.name for s in closed(stages)] == ["receive", "plan", "lease"]


def test_what_a_node_did_not_send_is_not_told_as_sent():
    parked = ended(1, 1, "parked", timings={"total": 40.0})
    effect = unanswered(step(0, 4, kind="effect"))
    names = [stage.name for stage in timeline(a_run(attempts=[parked], steps=[effect]))]
    assert "execute_tool post_invoice" in names
    assert "http.out" not in names


def test_a_step_of_the_run_that_is_replayed_is_told_only_as_taken_over():
    inherited = step(0, -100, epoch=0, answered_epoch=None, inherited_from="other")
    stages = timeline(completed(attempts=[ended(1, 1, replayed=[0])], steps=[inherited]))
    (chat,) = [stage for stage in stages if stage.name == "chat m"]
    assert chat.attributes["bpa.step.replayed"] is True
    assert chat.started_at == at(3)


def test_a_replay_begins_a_trace_that_links_to_the_old_one():
    run = a_run(
        sender=str(replaying(RUN_ID)),
        replay_of="other",
        replay_asked_at=at(-2),
        replay_sent_at=at(-1),
        replayed_traceparent=SENDER,
    )
    replay, receive = timeline(run)
    assert (replay.name, replay.parent_id, replay.link) == ("replay", "", SENDER)
    assert (replay.started_at, replay.ended_at) == (at(-2), at(-1))
    assert receive.parent_id == replay.span_id


@pytest.mark.parametrize("status", ["running", "queued"])
def test_a_living_run_is_not_complete_though_its_message_was_settled(status):
    settled = delivery(settled_at=at(13), disposition="complete")
    assert timeline(a_run(status=status, deliveries=[settled]))[-1].name == "receive"


def test_a_message_that_cannot_be_read_is_received_and_completed():
    run = completed(status="dead_lettered", reason="DeserializationError", detail="not JSON")
    stages = timeline(run)
    assert [(s.name, s.error) for s in stages] == [
        ("receive", ""),
        ("complete", "DeserializationError"),
    ]


MOMENTS = st.floats(-50, 50)


@given(st.lists(st.tuples(MOMENTS, MOMENTS), max_size=4), MOMENTS, MOMENTS)
def test_no_part_leaves_what_it_is_a_part_of_whatever_the_clocks_say(steps, begins, received_at):
    journal = [
        step(seq, start, ended_at=at(max(start, end))) for seq, (start, end) in enumerate(steps)
    ]
    run = completed(
        received_at=at(received_at),
        attempts=[ended(1, begins)],
        steps=journal,
    )
    stages = timeline(run)
    known = {stage.span_id: stage for stage in stages}
    for stage in stages:
        assert stage.ended_at is not None
        assert stage.started_at <= stage.ended_at
        parent = known.get(stage.parent_id)
        if parent is not None and parent.name != "receive":
            assert parent.started_at <= stage.started_at
            assert parent.ended_at is not None
            assert stage.ended_at <= parent.ended_at


def test_who_heard_no_answer_is_not_told_to_have_heard_that_of_a_later_one():
    effect = step(1, 6, kind="effect", answered_epoch=3, ended_at=at(28))
    attempts = [ended(1, 1, "expired"), ended(3, 20, timings={"http_out": 500.0})]
    stages = timeline(completed(attempts=attempts, steps=[effect]))
    outs = [stage.attributes for stage in stages if stage.name == "http.out"]
    assert [out.get("http.response.status_code") for out in outs] == [None, 201]
    assert [out["http.request.resend_count"] for out in outs] == [0, 1]


def test_what_a_target_refused_with_stands_with_the_execution_that_heard_it():
    effect = unanswered(step(0, 4, kind="effect", call={**EFFECT, "status": 0, "tries": 0}))
    heard = {**EFFECT, "status": 503, "tries": 4}
    failed = ended(1, 1, "rejected", reason="RetriesExhausted", heard=heard)
    silent = ended(1, 1, "rejected", reason="RetriesExhausted", heard={"tries": 4})
    for execution, status in ((failed, 503), (silent, None), (ended(1, 1, "expired"), None)):
        stages = timeline(a_run(attempts=[execution], steps=[effect]))
        (out,) = [stage.attributes for stage in stages if stage.name == "http.out"]
        assert out.get("http.response.status_code") == (status or None)
        assert out["http.request.resend_count"] == (3 if execution["heard"] else 0)


@pytest.mark.parametrize("later", [{}, {"answered": True, "answered_epoch": 5}])
def test_what_is_sent_again_without_an_answer_is_told_under_whoever_sent_it(later):
    effect = unanswered(step(0, 4, kind="effect")) | later
    again = ended(3, 20, "rejected", reason="RetriesExhausted", timings={"http_out": 500.0})
    stages = timeline(a_run(attempts=[ended(1, 1, "expired"), again], steps=[effect]))
    outs = [stage for stage in stages if stage.name == "http.out"]
    assert [(o.attempt, o.error) for o in outs] == [(1, "expired"), (2, "RetriesExhausted")]
    assert (outs[1].started_at, outs[1].ended_at) == (at(29.5), at(30))


def test_an_offer_says_of_which_attempt_it_is_before_and_after_it_is_taken_up():
    refused = ended(1, 1, "refused", acknowledged_at=None)
    offered = {"lease_waiting_since": at(12), "lease_granted_at": at(13), "node_id": "n-2"}
    before = timeline(a_run(status="offered", lease_epoch=3, attempts=[refused], **offered))
    run = a_run(status="running", lease_epoch=3, attempts=[refused], **offered)
    after = timeline(run | {"lease_acknowledged_at": at(14)})
    assert [s.attempt for s in before] == [0, 1, 1, 1, 1]
    assert closed(before)[3] == closed(after)[3]


def test_a_run_is_complete_once_its_first_message_is_settled_whatever_comes_later():
    one, two = (delivery(settled_at=at(13 + n), disposition="complete") for n in range(2))
    assert timeline(completed(deliveries=[two, one]))[-1].ended_at == at(13)


def test_a_run_that_waits_for_a_place_shows_since_when_and_for_what():
    waits = {"waiting_until": None, "waiting_reason": "all slots are taken"}
    (_, plan) = timeline(a_run(not_before=at(0.5), **waits))
    assert (plan.name, plan.started_at, plan.ended_at) == ("plan", at(1), None)
    assert plan.detail == "all slots are taken"
    tried = a_run(attempts=[ended(1, 1, "crashed")], lease_epoch=1, not_before=at(20), **waits)
    again = timeline(tried)[-1]
    assert (again.started_at, again.attempt) == (at(20), 2)
    granted = tried | {"status": "offered", "lease_epoch": 2, "node_id": "n"}
    times = {"lease_waiting_since": at(20), "lease_granted_at": at(21)}
    assert again.span_id in {stage.span_id for stage in timeline(granted | times)}
