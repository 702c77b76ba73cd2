"""Who did it is named in one form, whatever callers say of themselves."""

import pytest

from bpa.control.actors import ACTOR_CHARS_MAX, Door, actor, cancelled_by, told


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("api", "api"),
        ("alice", "api:alice"),
        ("cli:alice@desk", "cli:alice@desk"),
        ("cli:", "api:cli:"),
        ("cli: ", "api:cli:"),
        ("ui:local", "api:ui:local"),
        ("api:alice", "api:api:alice"),
        ("\u202e\u200b", "api"),
        ("al\u202eice\n2026 INFO", "api:alice 2026 INFO"),
        ("cli:\x1b[2Jalice", "cli:[2Jalice"),
        ("   ", "api"),
    ],
)
def test_a_caller_of_rest_is_named_by_the_door_and_what_it_says(said: str, named: str):
    assert told(said) == named


def test_a_name_is_bounded_whatever_it_is_made_of():
    assert len(told("x" * 10_000)) == ACTOR_CHARS_MAX
    assert len(told("cli:" + "e\u0301" * 10_000)) <= ACTOR_CHARS_MAX
    assert actor(Door.UI, "local") == "ui:local"
    assert actor(Door.CLI) == "cli"


def test_a_cancelled_run_says_by_whom_and_why():
    assert cancelled_by("ui:local", "a mistake") == "cancelled by ui:local: a mistake"
    assert cancelled_by("api", "") == "cancelled by api"
