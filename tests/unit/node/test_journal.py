import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpa.domain.journal import Step, StepKind, canonical, digest_of
from bpa.errors import Reason, RunEnded
from bpa.node.journal import Diverged, Journal


def answered(seq, digest, answer=b"{}"):
    return Step(seq=seq, kind=StepKind.MODEL, digest=digest, answer=answer)


def lost(seq, digest):
    return Step(seq=seq, kind=StepKind.MODEL, digest=digest, reserved_tokens=9)


def effect(seq, digest="e", answer=None):
    return Step(
        seq=seq,
        kind=StepKind.EFFECT,
        digest=digest,
        intent=b"body",
        effect_key=f"k{seq}",
        answer=answer,
    )


def test_the_digest_does_not_depend_on_the_order_of_keys():
    one = canonical({"a": 1, "b": {"c": 2, "d": 3}})
    assert one == canonical({"b": {"d": 3, "c": 2}, "a": 1})
    assert digest_of(StepKind.MODEL, one) != digest_of(StepKind.EFFECT, one)
    assert digest_of(StepKind.MODEL, one) != digest_of(StepKind.MODEL, canonical({"a": 2}))


def test_equal_requests_find_their_answers_in_the_order_they_were_recorded():
    journal = Journal([answered(1, "d", b"second"), answered(0, "d", b"first")])
    assert [journal.replay("d").answer for _ in range(2)] == [b"first", b"second"]
    assert journal.replay("d") is None
    assert journal.replayed == [0, 1]


def test_a_lost_answer_is_asked_for_again_as_a_new_step():
    journal = Journal([lost(0, "d")])
    assert journal.replay("d") is None
    assert journal.next_seq == 1


def test_what_this_execution_recorded_is_not_replayed_to_it():
    journal = Journal([])
    journal.record(lost(0, "d"))
    journal.record(answered(0, "d"))
    assert journal.replay("d") is None
    assert [s.answer for s in journal.steps] == [b"{}"]
    assert journal.replayed == []


def test_an_unknown_request_before_a_recorded_effect_ends_the_run():
    journal = Journal([answered(0, "d"), effect(1)])
    with pytest.raises(Diverged) as caught:
        journal.replay("other")
    assert isinstance(caught.value, RunEnded)
    assert caught.value.reason is Reason.AGENT_ERROR


def test_an_unknown_request_after_the_recorded_effect_goes_live():
    journal = Journal([answered(0, "d"), effect(1)])
    assert journal.replay("d") is not None
    assert journal.effect("e") == effect(1)
    assert journal.replay("other") is None
    assert journal.effects == [effect(1)]


def test_other_arguments_than_those_of_an_effect_that_lies_ahead_end_the_run():
    journal = Journal([effect(0), effect(1, digest="f")])
    assert journal.effect("e") == effect(0)
    assert journal.has_effect_ahead
    with pytest.raises(Diverged):
        journal.effect("g")
    assert journal.effect("f") == effect(1, digest="f")
    assert not journal.has_effect_ahead
    assert journal.effect("g") is None


def test_an_effect_is_the_same_one_however_often_it_is_asked_for():
    journal = Journal([effect(0, answer=b"{}")])
    assert [journal.effect("e").seq for _ in range(3)] == [0, 0, 0]
    assert journal.replayed == [0]


def test_an_effect_of_this_execution_is_neither_ahead_nor_replayed():
    journal = Journal([])
    journal.record(effect(0))
    journal.record(effect(0, answer=b"{}"))
    assert not journal.has_effect_ahead
    assert not journal.is_inherited(journal.effect("e"))
    assert journal.replayed == []


@given(st.lists(st.sampled_from("abc"), max_size=20))
def test_an_agent_that_does_the_same_again_is_never_sent_to_the_model(digests):
    journal = Journal([answered(n, d, str(n).encode()) for n, d in enumerate(digests)])
    assert [journal.replay(d).answer for d in digests] == [
        str(n).encode() for n in range(len(digests))
    ]
