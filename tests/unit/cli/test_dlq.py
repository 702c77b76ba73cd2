"""How ``bpa dlq replay`` ends, by what became of the dead letters, and what it refuses."""

import io
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

from bpa.cli import cli
from bpa.cli.context import whoami
from bpa.cli.dlq import _print_letters
from bpa.cli.dlq_replay import exit_code, print_replayed
from bpa.control.replay_plan import Result
from bpa.control.rest.dead_letter_schemas import DeadLetterSummary, Replayed, Replays


def one(result: Result, **changes) -> Replayed:
    values = {
        "id": "invoices:1",
        "result": result,
        "why": "goes on from its run",
        "run_id": None,
        "replayed_run_id": None,
        "original_run_id": None,
        "replay_number": 1,
        "edited": False,
        "effect_key": "r:1",
        "inherited_steps": 0,
        "effects_applied": 0,
    }
    return Replayed(**{**values, **changes})


@pytest.mark.parametrize(
    ("results", "code"),
    [
        ((Result.REPLAYED, Result.SETTLED), 0),
        ((Result.REPLAYED, Result.REFUSED), 7),
        ((Result.REPLAYED, Result.GONE), 7),
        ((Result.SENT,), 7),
        ((Result.GONE, Result.GONE), 3),
        ((Result.REFUSED, Result.BUSY), 5),
        ((Result.FAILED, Result.REFUSED), 6),
    ],
)
def test_the_exit_code_tells_all_from_a_part_from_nothing(results, code):
    assert exit_code([one(result) for result in results]) == code


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--id", "a:1", "--reason", "AgentError"), "not both"),
        (("--id", "a:1", "--content-type", "text/plain"), "--edit"),
        (("--id", "a:1", "--id", "a:2", "--edit", "body.json"), "one --id"),
        (("--id", "a:1", "--group", "0123456789ab"), "not both"),
        (("--reason", "AgentError", "--edit", "body.json"), "one --id"),
        (("--id", "a:1", "--rate", "5"), "for what a filter matches"),
        (("--id", "a:1", "--detach"), "for what a filter matches"),
        (tuple(word for n in range(101) for word in ("--id", f"a:{n}")), "at most 100"),
        (("--rate", "0"), "--rate"),
        ((), "--yes, or choose with --reason, --queue, --group or --id"),
        (("--limit", "5", "--json"), "--yes"),
        (("--no-input",), "--yes"),
        (("--edit", "missing.json"), "missing.json"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], told: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "body.json").write_text("{}")
    result = CliRunner().invoke(cli, ["dlq", "replay", *words])
    assert result.exit_code == 2
    assert told in result.output


def test_a_line_says_what_goes_on_from_what(capsys: pytest.CaptureFixture[str]):
    print_replayed(one(Result.REPLAYED, inherited_steps=2, effects_applied=1, run_id="r-2"))
    print_replayed(one(Result.REFUSED, why="its run is still running"), dry_run=True)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("invoices:1  replayed as run r-2: ")
    assert "key r:1, 2 recorded steps, the target has applied it" in first
    assert second == "invoices:1  would be refused: its run is still running"


def test_who_asks_is_named_for_the_audit():
    assert "@" in whoami()


@pytest.mark.parametrize(
    ("words", "confirmed", "code", "sent"),
    [
        ((), None, 2, []),
        (("--yes",), None, 0, [True]),
        (("--dry-run",), None, 0, [False]),
        ((), True, 0, [True]),
        ((), False, 1, []),
    ],
)
def test_another_body_is_not_posted_beside_an_applied_one_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words, confirmed, code, sent
):
    body, requests, questions = tmp_path / "body.json", [], []
    body.write_text("{}")

    async def replayed(_context, asked) -> Replays:
        requests.append(asked)
        result = one(Result.REPLAYED, why="applied under k", repeats_effect=True)
        return Replays(dry_run=asked["dryRun"], results=[result])

    def confirm(question: str, **_) -> None:
        questions.append(question)
        if not confirmed:
            raise click.Abort

    monkeypatch.setattr("bpa.cli.dlq_replay._replay", replayed)
    monkeypatch.setattr("bpa.cli.dlq_replay.click.confirm", confirm)
    monkeypatch.setattr(
        "bpa.cli.dlq_replay.sys",
        SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: confirmed is not None)),
    )
    result = CliRunner().invoke(cli, ["dlq", "replay", "--id", "a:1", "--edit", str(body), *words])
    assert result.exit_code == code, result.output
    done = [one for one in requests if not one["dryRun"] or "--dry-run" in words]
    assert [one["mayRepeatEffect"] for one in done] == sent
    assert all("applied under k" in question for question in questions)
    assert "applied under k" in result.output or questions


@pytest.mark.parametrize(("width", "has_run"), [(80, False), (100, True), (140, True)])
def test_a_narrow_terminal_shows_which_dead_letters_and_why(width: int, *, has_run: bool):
    known = {
        "id": "invoices-of-the-north:123456",
        "reason": "MaxDeliveryCountExceeded",
        "description": "the target answers 500",
        "dead_lettered_at": datetime.now(UTC),
        "replay_count": 0,
        "run_id": "01a205aa-ca1a-8cec-8cd0-8d1837994f52",
    }
    letter = DeadLetterSummary(**dict.fromkeys(DeadLetterSummary.__struct_fields__) | known)
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    _print_letters(console, [letter])
    head, row = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert row.startswith(f"{letter.id}  {letter.reason}  ")
    assert ("run" in head.split()) is has_run
    assert has_run or "the target" in row
