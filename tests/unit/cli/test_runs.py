"""How a run's state reads."""

from datetime import UTC, datetime, timedelta

from bpa.cli.runs_show import _pairs
from bpa.cli.runs_words import state, waits_for, why
from bpa.cli.steps import answer
from bpa.control.rest.run_schemas import RunSummary, StepView
from bpa.control.steps import StepState


def a_run(**changes):
    fields = dict.fromkeys(RunSummary.__struct_fields__)
    return RunSummary(**fields | {"status": "queued", "cancelling": False} | changes)


def test_a_run_that_backs_off_says_until_when():
    soon = datetime.now(UTC) + timedelta(hours=3)
    run = a_run(waiting_reason="node n was lost; backing off", waiting_until=soon)
    said = f"node n was lost; backing off; next try at {soon:%H:%M:%S} UTC, in 3 h"
    assert waits_for(run) == said
    assert why(run) == said


def test_a_run_that_waits_for_a_place_names_no_time():
    run = a_run(waiting_reason="no node has a free slot: n all 8 slots used")
    assert waits_for(run) == "no node has a free slot: n all 8 slots used"


def test_a_run_that_is_being_cancelled_says_so():
    assert str(state(a_run(status="running", cancelling=True))) == "cancelling"
    assert str(state(a_run(status="running"))) == "running"


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


def test_a_dead_letter_that_was_replayed_says_by_which_run():
    run = a_run(status="dead_lettered", reason="AgentError", detail="no", replayed_as="r-2")
    assert why(run) == "replayed as r-2; AgentError: no"
