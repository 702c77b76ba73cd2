"""How a run's state reads."""

from datetime import UTC, datetime, timedelta

from bpa.cli.runs import _pairs, _status, _waits_for, _why
from bpa.cli.steps import answer
from bpa.control.rest.schemas import RunSummary, StepView
from bpa.control.steps import StepState


def a_run(**changes):
    fields = dict.fromkeys(RunSummary.__struct_fields__)
    return RunSummary(**fields | {"status": "queued", "cancelling": False} | changes)


def test_a_run_that_backs_off_says_until_when():
    soon = datetime.now(UTC) + timedelta(hours=3)
    run = a_run(waiting_reason="node n was lost; backing off", waiting_until=soon)
    said = f"node n was lost; backing off; next try at {soon:%H:%M:%S} UTC, in 3 h"
    assert _waits_for(run) == said
    assert _why(run) == said


def test_a_run_that_waits_for_a_place_names_no_time():
    run = a_run(waiting_reason="no node has a free slot: n all 8 slots used")
    assert _waits_for(run) == "no node has a free slot: n all 8 slots used"


def test_a_run_that_is_being_cancelled_says_so():
    assert str(_status(a_run(status="running", cancelling=True))) == "cancelling"
    assert str(_status(a_run(status="running"))) == "running"


def a_step(**changes):
    fields = dict.fromkeys(StepView.__struct_fields__)
    return StepView(**fields | {"state": StepState.RECORDED, "replays": 0} | changes)


def test_a_step_says_whether_its_answer_was_taken_again():
    assert [answer(a_step(replays=n)) for n in range(3)] == [
        "recorded",
        "replayed",
        "replayed 2 times",
    ]
    assert answer(a_step(state=StepState.IN_FLIGHT)) == "in flight"
    assert answer(a_step(state=StepState.UNKNOWN)) == "unknown"


def test_an_outcome_of_several_effects_shows_the_first():
    assert _pairs({"status": 201, "route": "it", "further": [{"status": 201}]}) == (
        "status 201, route it"
    )
