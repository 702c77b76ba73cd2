"""Operations as their pages show them."""

import pytest

from bpa.control.operation_terms import Act, Became, State
from bpa.control.rest.operation_schemas import OperationChosen, OperationItem
from bpa.ui.views import operations as view
from tests.unit.operations import operation


@pytest.mark.parametrize(
    ("changes", "badge", "tone"),
    [
        ({"counts": {Became.REPLAYED: 2}}, "done", "good"),
        ({"counts": {Became.REPLAYED: 2, Became.GONE: 1}}, "done, 1 failed", "bad"),
        ({"items": 3, "state": State.RUNNING}, "at work", "work"),
        ({"items": 3, "state": State.RUNNING, "trouble": "away"}, "waits", "work"),
        ({"items": 3, "state": State.HELD}, "held, not started", "work"),
        ({"items": 3, "state": State.STOPPED}, "stopped", "work"),
    ],
)
def test_a_state_says_whether_all_went_well(changes, badge: str, tone: str):
    shown = view.line(operation(**changes))
    assert (shown.badge.text, shown.tone) == (badge, tone)


def test_progress_is_a_share_with_the_time_that_is_left_at_its_rate():
    counts = {Became.CANCELLED: 30, Became.CANCELLING: 10, Became.REFUSED: 10}
    changes = {"action": Act.CANCEL, "items": 200, "state": State.RUNNING, "rate_per_s": 5}
    shown = view.page(operation(counts=counts, **changes), [], shows_all=False, following="next")
    assert (shown.line.title, shown.line.progress) == ("Cancel 200 runs", "50 of 200")
    assert (shown.line.share, shown.left) == (0.25, "30 s left at its rate")
    assert [(one.text, one.tone) for one in shown.tallies] == [
        ("30 cancelled", "good"), ("10 cancelling", "wait"), ("10 refused", "bad"),
    ]  # fmt: skip
    assert [(tab.text, tab.number, tab.is_here) for tab in shown.tabs] == [
        ("failed", "10", True), ("all", "200", False),
    ]  # fmt: skip
    assert shown.older_path == f"{shown.line.path}?cursor=next"
    assert shown.said == "Cancel 200 runs: at work, 50 of 200"


@pytest.mark.parametrize(
    ("action", "chosen", "said", "command"),
    [
        (
            Act.CANCEL,
            OperationChosen(q="status:queued 'acme'"),
            "status:queued 'acme'",
            """bpa runs cancel --where 'status:queued '"'"'acme'"'"''""",
        ),
        (Act.RETRY, OperationChosen(q="", limit=5), "the oldest 5 of all runs",
         "bpa runs retry --where '' --limit 5"),
        (
            Act.REPLAY,
            OperationChosen(reason="AgentError", group="0123456789ab", cause="no such key …"),
            "AgentError: no such key …",
            "bpa dlq replay --group 0123456789ab",
        ),
        (Act.REPLAY, OperationChosen(queue="a b"), "all letters in a b",
         "bpa dlq replay --queue 'a b'"),
    ],
)  # fmt: skip
def test_what_it_is_about_is_said_and_how_a_shell_does_the_same(action, chosen, said, command):
    shown = view.page(
        operation(action=action, chosen=chosen, items=1, state=State.RUNNING),
        [],
        shows_all=False,
        following=None,
    )
    assert shown.line.chosen == said
    assert shown.commands[0] == command
    assert [line.split()[2] for line in shown.commands[1:]] == ["watch", "stop"]


def test_an_item_leads_to_what_it_is_and_to_what_became_of_it():
    item = OperationItem(
        nth=1, subject="a/b:1", result=Became.REPLAYED, why="", run_id="r-1", tries=1, done_at=None
    )
    shown = view.page(operation(items=1), [item], shows_all=True, following=None)
    (one,) = shown.items
    assert (one.path, one.run_path) == ("/ui/dead-letters/a%2Fb%3A1", "/ui/runs/r-1")
    assert (one.badge.text, one.badge.tone) == ("replayed", "good")
