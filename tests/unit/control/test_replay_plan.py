"""What a replay comes to, for every state its run and an earlier replay can be in."""

import contextlib
import hashlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpa.connectors import Message
from bpa.control.replay_plan import Action, Edit, Identity, LetterId, plan
from bpa.control.replays import claimed_run_id, new_run_id
from bpa.domain.runs import RunId, RunStatus
from bpa.errors import NotFound

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BODY = b"{}"
RUN = RunId("01a20650-1a3a-8fa4-bdc8-4c1a3d2063bf")
NEXT = RunId("01a20650-1a3b-8fa4-bdc8-4c1a3d2063bf")
FIRST = RunId("01a20650-1a39-8fa4-bdc8-4c1a3d2063bf")
IDENTITY = Identity(RUN, f"{RUN}:7")
UNKNOWN = {
    "status": None,
    "reason": None,
    "effect_key": None,
    "source_key": None,
    "original_run_id": None,
    "replay_number": None,
    "next_run_id": None,
    "next_number": None,
    "next_body_sha256": None,
    "next_sent_at": None,
    "next_arrived": False,
    "inheritable": 0,
    "effects": 0,
    "effects_applied": 0,
}
DEAD = {**UNKNOWN, "status": "dead_lettered", "effect_key": "the-key", "inheritable": 3}
BEGUN = {
    **DEAD,
    "next_run_id": NEXT,
    "next_number": 1,
    "next_body_sha256": hashlib.sha256(BODY).digest(),
}


def letter(body: bytes = BODY, **fields) -> Message:
    return Message(body=body, sequence_number=7, enqueued_ms=1, locked_until=NOW, **fields)


def planned(known, edit=None, **fields):
    return plan(letter(**fields), IDENTITY, known, edit)


def test_a_replay_inherits_the_key_and_the_journal():
    found = planned(DEAD)
    assert (found.action, found.effect_key, found.inherits) == (Action.REPLAY, "the-key", 3)
    assert (found.original_run_id, found.replay_number, found.edited) == (RUN, 1, False)


def test_a_message_that_never_became_a_run_keeps_the_key_it_would_have_had():
    assert planned(UNKNOWN).effect_key == IDENTITY.effect_key


def test_a_replay_that_never_became_a_run_keeps_the_key_that_was_chosen_for_it():
    chain = {"source_key": "first-key", "original_run_id": FIRST, "replay_number": 2}
    found = planned({**UNKNOWN, **chain})
    assert (found.effect_key, found.original_run_id, found.replay_number) == ("first-key", FIRST, 3)


def test_another_body_gets_neither_key_nor_journal():
    found = planned(DEAD, Edit(b"[]"))
    assert (found.action, found.edited) == (Action.REPLAY, True)
    assert (found.effect_key, found.inherits) == (None, 0)
    assert found.body_sha256 == hashlib.sha256(b"[]").digest()


@pytest.mark.parametrize(
    ("applied", "said"),
    [(0, "may be at the target already under the-key"), (1, "was applied under the-key")],
)
def test_another_body_beside_what_the_target_may_have_is_only_sent_if_asked_for(applied, said):
    sent = {**DEAD, "effects": 1, "effects_applied": applied}
    refused = planned(sent, Edit(b"[]"))
    assert (refused.action, refused.repeats_effect) == (Action.REFUSE, True)
    assert said in refused.why
    allowed = planned(sent, Edit(b"[]", may_repeat_effect=True))
    assert (allowed.action, allowed.repeats_effect) == (Action.REPLAY, True)
    assert said in allowed.why
    assert not planned(sent, Edit(BODY)).repeats_effect, "the same bytes go out under the same key"


def test_a_body_that_the_target_refused_may_be_mended_without_a_word():
    refused = {**DEAD, "effects": 1, "reason": "NonRetryableHttpStatus"}
    found = planned(refused, Edit(b"[]"))
    assert (found.action, found.repeats_effect) == (Action.REPLAY, False)
    one_applied = {**refused, "effects": 2, "effects_applied": 1}
    assert planned(one_applied, Edit(b"[]")).action is Action.REFUSE


def test_an_edited_replay_that_was_begun_is_finished_without_asking_again():
    found = planned({**BEGUN, "effects": 1}, Edit(b"[]"))
    assert found.action is Action.REFUSE, "that of other bytes"
    begun = {**BEGUN, "effects": 1, "next_body_sha256": hashlib.sha256(b"[]").digest()}
    found = planned(begun, Edit(b"[]"))
    assert (found.action, found.repeats_effect) == (Action.CONTINUE, False)


def test_the_same_bytes_are_no_edit_but_for_a_body_that_was_no_bytes():
    assert not planned(DEAD, Edit(BODY)).edited
    assert planned(DEAD, Edit(b""), body=b"", undecodable="an AMQP value").edited


@pytest.mark.parametrize("status", set(RunStatus) - {"dead_lettered", "completed"})
def test_a_living_run_is_not_replayed(status):
    found = planned({**DEAD, "status": status.value})
    assert (found.action, status.value in found.why) == (Action.REFUSE, True)


def test_a_completed_run_needs_nothing_sent():
    done = {**DEAD, "status": "completed"}
    assert planned(done).action is Action.SETTLE
    assert planned(done, Edit(b"[]")).action is Action.REFUSE


@pytest.mark.parametrize(
    ("reason", "is_said"), [("SchemaValidationFailed", True), ("RetriesExhausted", False)]
)
def test_who_replays_a_body_that_was_the_fault_is_told_that_it_fails_alike(reason, is_said):
    found = planned({**DEAD, "reason": reason})
    assert found.action is Action.REPLAY
    assert ("fails alike" in found.why) is is_said
    assert "fails alike" not in planned({**DEAD, "reason": reason}, Edit(b"[]")).why


@pytest.mark.parametrize(
    ("more", "action"),
    [
        ({}, Action.CONTINUE),
        ({"next_sent_at": NOW}, Action.SETTLE),
        ({"next_arrived": True}, Action.SETTLE),
    ],
)
def test_a_replay_that_was_begun_is_gone_on_with(more, action):
    found = planned({**BEGUN, **more})
    assert (found.action, found.run_id, found.replay_number) == (action, NEXT, 1)
    assert planned({**BEGUN, **more}, Edit(b"[]")).action is Action.REFUSE


def test_another_letter_of_a_run_whose_replay_was_edited_is_only_removed():
    edited = {**BEGUN, "next_body_sha256": hashlib.sha256(b"[]").digest()}
    assert planned(edited).action is Action.REFUSE, "its message may not have been sent"
    sent = {**edited, "next_sent_at": NOW}
    assert planned(sent).action is Action.SETTLE
    assert planned(sent, Edit(b"[]")).action is Action.SETTLE
    found = planned(sent, Edit(b"[1]"))
    assert found.action is Action.REFUSE
    assert "done with another body; leave --edit out" in found.why


@given(
    st.from_regex(r"[A-Za-z0-9]([\w\-./]{0,20}[A-Za-z0-9])?", fullmatch=True),
    st.integers(1, 2**63 - 2),
)
def test_an_id_names_its_dead_letter_whatever_its_queue_is_called(queue, number):
    written = str(LetterId(queue, number))
    assert "/" not in written
    assert LetterId.read(written) == LetterId(queue, number)


@given(st.text(max_size=40))
def test_any_text_is_an_id_or_refused(text):
    with contextlib.suppress(NotFound):
        assert str(LetterId.read(text)).rpartition(":")[0]


@given(
    st.dictionaries(st.just("x-replay-run-id"), st.one_of(st.text(), st.integers(), st.booleans()))
)
def test_any_claim_is_an_id_or_none(properties):
    claimed = claimed_run_id(letter(properties=properties))
    assert claimed is None or len(claimed) == 36


def test_new_run_ids_sort_by_time_and_differ():
    ids = [new_run_id() for _ in range(50)]
    assert len(set(ids)) == 50
    assert [i[:13] for i in ids] == sorted(i[:13] for i in ids)
    assert all(i[14] == "8" and i[19] in "89ab" for i in ids)
