import pytest

from bpa.control.steps import StepState, states_of

RUNNING = {"status": "running", "lease_epoch": 2}


def row(epoch=2, *, kind="model", answered=False, refused=False):
    return {"kind": kind, "answered": answered, "refused": refused, "epoch": epoch}


def test_the_last_call_of_the_lease_that_holds_is_in_flight():
    assert states_of(RUNNING, [row(answered=True), row()]) == ["recorded", "in_flight"]
    assert states_of(RUNNING, [row(kind="effect")]) == ["in_flight"]


def test_a_try_that_another_followed_has_lost_its_answer():
    assert states_of(RUNNING, [row(), row()]) == [StepState.UNKNOWN, StepState.IN_FLIGHT]


@pytest.mark.parametrize(
    "run",
    [
        {"status": "running", "lease_epoch": 3},
        {"status": "queued", "lease_epoch": 2},
        {"status": "offered", "lease_epoch": 3},
        {"status": "completed", "lease_epoch": 2},
        {"status": "dead_lettered", "lease_epoch": 3},
    ],
)
def test_nothing_is_in_flight_once_its_execution_is_over(run):
    assert states_of(run, [row()]) == [StepState.UNKNOWN]
    assert states_of(run, [row(kind="effect")]) == [StepState.UNANSWERED]


def test_a_call_that_the_provider_refused_is_known_to_have_used_nothing():
    assert states_of(RUNNING, [row(answered=True, refused=True)]) == [StepState.REFUSED]
