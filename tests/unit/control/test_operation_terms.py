"""What is said of operations: which runs an act is for, what a replay means for an item."""

import pytest

from bpa.control.operation_terms import DONE, TRIES_AT_MOST, Act, Became, Told, told_of
from bpa.control.operations import foreseen
from bpa.control.replay_plan import LetterId, Outcome
from bpa.control.replay_plan import Result as Replayed
from bpa.domain.runs import TERMINAL, RunStatus

LETTER = LetterId("invoices", 1)


def test_what_lives_can_be_cancelled_and_what_waits_or_failed_be_retried():
    assert Act.CANCEL.statuses == set(RunStatus) - TERMINAL
    assert Act.RETRY.statuses == {RunStatus.QUEUED, RunStatus.DEAD_LETTERED}


@pytest.mark.parametrize("result", Replayed)
def test_each_result_of_a_replay_is_one_of_an_item_in_the_end(result: Replayed):
    told = told_of(Outcome(LETTER, result, "why", run_id=None), TRIES_AT_MOST)
    assert told == Told(Became(result.value), "why")


@pytest.mark.parametrize("result", [Replayed.BUSY, Replayed.SENT, Replayed.FAILED])
def test_what_cannot_be_done_yet_is_tried_again_with_growing_pauses(result: Replayed):
    outcome = Outcome(LETTER, result, "why")
    pauses = [told_of(outcome, tries).again_s for tries in range(1, TRIES_AT_MOST)]
    assert pauses[:5] == [2, 4, 8, 16, 30]
    assert None not in pauses
    assert sum(pause or 0 for pause in pauses) > 300, "a broker keeps a lock for five minutes"
    assert all(told_of(outcome, tries).result is None for tries in range(1, TRIES_AT_MOST))


@pytest.mark.parametrize("result", [Replayed.REPLAYED, Replayed.SETTLED, Replayed.REFUSED])
def test_what_is_decided_is_not_tried_again(result: Replayed):
    assert told_of(Outcome(LETTER, result, ""), 1).again_s is None
    assert (Became(result.value) in DONE) is (result is not Replayed.REFUSED)


@pytest.mark.parametrize(
    ("action", "status", "replayed_as", "result"),
    [
        (Act.CANCEL, "queued", None, Became.CANCELLED),
        (Act.CANCEL, "offered", None, Became.CANCELLING),
        (Act.CANCEL, "running", None, Became.CANCELLING),
        (Act.CANCEL, "completed", None, Became.REFUSED),
        (Act.CANCEL, None, None, Became.GONE),
        (Act.RETRY, "queued", None, Became.HURRIED),
        (Act.RETRY, "running", None, Became.REFUSED),
        (Act.RETRY, "dead_lettered", None, Became.REPLAYED),
        (Act.RETRY, "dead_lettered", "r-2", Became.REFUSED),
        (Act.RETRY, "completed", None, Became.REFUSED),
    ],
)
def test_what_would_become_of_a_run_follows_from_its_state(action, status, replayed_as, result):
    assert foreseen(action, {"status": status, "replayed_as": replayed_as}).result is result
