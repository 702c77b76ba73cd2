"""The picture of a run's life in the documentation."""

import re

from bpa.domain.runs import TRANSITIONS
from tests.unit.run_states import PAGE, drawn


def test_the_documentation_shows_the_transitions_that_there_are():
    page = PAGE.read_text("utf-8")
    assert page == drawn(page), "run `make diagrams`"


def test_every_event_is_explained():
    explained = set(re.findall(r"^\| ([a-z ]+) \|", PAGE.read_text("utf-8"), re.MULTILINE))
    events = {event for events in TRANSITIONS.values() for event in events}
    assert explained - {"event"} == events | {"receive"}
