"""How a run's state reads."""

from datetime import UTC, datetime, timedelta

from bpa.cli.runs import _status, _waits_for, _why
from bpa.control.rest.schemas import RunSummary


def a_run(**changes):
    fields = dict.fromkeys(RunSummary.__struct_fields__)
    return RunSummary(**fields | {"status": "queued", "cancelling": False} | changes)


def test_a_run_that_backs_off_says_until_when():
    soon = datetime.now(UTC) + timedelta(hours=3)
    run = a_run(waiting_reason="node n was lost; backing off", waiting_until=soon)
    said = f"node n was lost; backing off; next try at {soon:%H:%M:%S} UTC, in 3 h"
    assert _waits_for(run) == said
    assert _why(run) == f"waits: {said}"


def test_a_run_that_waits_for_a_place_names_no_time():
    run = a_run(waiting_reason="no node has a free slot: n all 8 slots used")
    assert _waits_for(run) == "no node has a free slot: n all 8 slots used"


def test_a_run_that_is_being_cancelled_says_so():
    assert str(_status(a_run(status="running", cancelling=True))) == "cancelling"
    assert str(_status(a_run(status="running"))) == "running"
