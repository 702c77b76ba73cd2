"""How commands that act on many end, and what they say on the way."""

import json
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from bpa.cli import cli
from bpa.cli.operating import chosen_by, exit_code_of, headline
from bpa.control.operation_terms import Became, State
from bpa.control.rest.operation_schemas import Operation, OperationChosen
from tests.unit.operations import operation


@pytest.mark.parametrize(
    ("counts", "items", "code"),
    [
        ({Became.REPLAYED: 2, Became.SETTLED: 1}, 3, 0),
        ({Became.CANCELLED: 1, Became.CANCELLING: 1}, 2, 0),
        ({Became.REPLAYED: 2, Became.REFUSED: 1}, 3, 7),
        ({Became.REPLAYED: 2}, 5, 7),
        ({}, 5, 7),
        ({Became.SENT: 1}, 1, 7),
        ({Became.GONE: 2}, 2, 3),
        ({Became.REFUSED: 1, Became.GONE: 1}, 2, 5),
        ({Became.BUSY: 1}, 1, 5),
        ({Became.FAILED: 1, Became.REFUSED: 1}, 2, 6),
    ],
)
def test_the_exit_code_tells_all_from_a_part_from_nothing(counts, items: int, code: int):
    assert exit_code_of(operation(counts=counts, items=items)) == code


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"counts": {Became.REPLAYED: 2}}, "replay 2 of 2: 2 replayed"),
        (
            {"counts": {Became.REPLAYED: 2}, "items": 12, "state": State.RUNNING, "rate_per_s": 5},
            "replay 2 of 12: 2 replayed; 2 s left at its rate",
        ),
        (
            {"items": 1, "state": State.RUNNING, "trouble": "the broker is away"},
            "replay 0 of 1; it waits: the broker is away",
        ),
        (
            {"items": 9, "state": State.STOPPED, "stopped_by": "ui:local"},
            "replay 0 of 9; stopped by ui:local",
        ),
        ({"items": 9, "state": State.HELD}, "replay 0 of 9; held until somebody starts it"),
    ],
)
def test_a_line_says_how_far_it_is_and_what_it_waits_for(changes, told: str):
    assert headline(operation(**changes)) == told


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        (OperationChosen(), "all"),
        (OperationChosen(q=""), "all"),
        (OperationChosen(q="status:queued acme"), "status:queued acme"),
        (OperationChosen(ids=1200), "1,200 named"),
        (OperationChosen(queue="a", reason="AgentError"), "queue:a reason:AgentError"),
    ],
)
def test_a_set_is_named_as_it_was_chosen(chosen: OperationChosen, told: str):
    assert chosen_by(operation(chosen=chosen)) == told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("cancel",), "either the id of a run or --where"),
        (("cancel", "r", "--where", "acme"), "either the id of a run or --where"),
        (("retry", "r", "--dry-run", "--rate", "2"), "--dry-run, --rate: for --where alone"),
        (("cancel", "--where", " "), "this would cancel every run"),
        (("retry", "--where", "", "--no-input"), "this would retry every run"),
        (("retry", "--where", "acme", "--rate", "0"), "--rate"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_asked(words, told: str):
    result = CliRunner().invoke(cli, ["runs", *words])
    assert result.exit_code == 2
    assert told in result.output


def test_who_stops_watching_is_told_that_the_operation_goes_on(monkeypatch: pytest.MonkeyPatch):
    started = operation(items=9, state=State.RUNNING)
    asked = []

    async def post(_context, path: str, body) -> Operation:
        asked.append((path, body))
        return started

    async def interrupted(_context, _operation):
        raise KeyboardInterrupt

    monkeypatch.setattr("bpa.cli.operating._post", post)
    monkeypatch.setattr("bpa.cli.operating._watch", interrupted)
    result = CliRunner().invoke(cli, ["dlq", "replay", "--group", "0123456789ab", "--rate", "5"])
    assert f"the operation goes on: `bpa operations watch {started.id}`" in result.output
    assert f"`bpa operations stop {started.id}` stops it" in result.output
    ((path, body),) = asked
    assert path == "/v1/operations"
    assert json.loads(json.dumps(body)) == {
        "action": "replay",
        "deadLetters": {"group": "0123456789ab"},
        "ratePerS": 5.0,
        "hold": False,
        "requestedBy": body["requestedBy"],
    }


@pytest.mark.parametrize(("agrees", "verb"), [(True, ":start"), (False, ":stop")])
def test_what_is_asked_about_is_a_set_that_is_frozen_already(
    monkeypatch: pytest.MonkeyPatch, *, agrees: bool, verb: str
):
    asked = []

    async def post(_context, path: str, _body) -> Operation:
        asked.append(path)
        return operation(items=1, state=State.HELD)

    def confirm(question: str, **_: object) -> None:
        assert question == "cancel 1 run?"
        if not agrees:
            raise click.Abort

    monkeypatch.setattr("bpa.cli.operating._post", post)
    monkeypatch.setattr("bpa.cli.operating.click.confirm", confirm)
    terminal = SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("bpa.cli.runs_acts.sys", terminal)
    words = ["runs", "cancel", "--where", "acme", "--detach"]
    assert CliRunner().invoke(cli, words).exit_code == (0 if agrees else 1)
    assert asked == ["/v1/operations", f"/v1/operations/{operation().id}{verb}"]
