"""What the command line says before it talks to anybody."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bpa import __version__
from bpa.cli import cli, main
from bpa.cli.serve import _print_addresses
from bpa.errors import InvalidRequest, NotFound, SettingsError, Unavailable
from bpa.roles.addresses import Addresses

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in an empty folder, with no setting from outside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BPA_DATA_DIR", str(tmp_path / "nothing-here"))
    return lambda *words: CliRunner().invoke(cli, words)


COMMANDS = [
    "agents",
    "apply",
    "breakers",
    "config",
    "cordon",
    "costs",
    "demo",
    "deployments",
    "dlq",
    "drain",
    "emulate",
    "nodes",
    "queues",
    "runs",
    "send",
    "serve",
    "uncordon",
]


def test_help_lists_every_command_on_one_line_without_importing_any(run):
    out = run("--help").output
    assert all(re.search(rf"^  {name}  .+[.]$", out, re.MULTILINE) for name in COMMANDS)
    code = "import sys; from bpa.cli import cli; cli(['--help'], standalone_mode=False)"
    heavy = "print([name for name in ('rich', 'aiohttp', 'msgspec') if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", f"{code}; {heavy}"], capture_output=True, text=True)
    assert out.stdout.splitlines()[-1] == "[]"


def test_a_fault_of_ours_is_one_line_that_can_be_reported(monkeypatch, capsys):
    def fails(**_: object) -> None:
        raise ExceptionGroup("tasks", [KeyError("one\ntwo")])

    monkeypatch.setattr(cli, "main", fails)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"bpa: this is a fault of bpa {__version__}: KeyError")


@pytest.mark.parametrize(
    "words",
    [
        *([name] for name in COMMANDS),
        *(["runs", name] for name in ("list", "show", "cancel", "retry")),
        *(["dlq", name] for name in ("list", "show", "replay")),
        *(["nodes", name] for name in ("list", "show")),
        ["config", "show"],
    ],
    ids=" ".join,
)
def test_every_command_explains_itself_and_its_options(run, words):
    result = run(*words, "--help")
    assert result.exit_code == 0
    what, options = result.output.split("Options:")
    assert len(what.split("\n\n")) >= 3, "says what it does"
    assert "  --" in options or "Commands:" in options


@pytest.mark.parametrize(
    "words",
    [
        ["runs", "list"],
        ["runs", "show", "01a205aa-ca1a-8cec-8cd0-8d1837994f52"],
        ["runs", "cancel", "01a205aa-ca1a-8cec-8cd0-8d1837994f52"],
        ["runs", "retry", "01a205aa-ca1a-8cec-8cd0-8d1837994f52"],
        ["dlq", "list"],
        ["dlq", "show", "invoices:1"],
        ["dlq", "replay", "--yes"],
        ["dlq", "replay", "--dry-run"],
        ["dlq", "replay", "--reason", "AgentError"],
        ["dlq", "replay", "--id", "invoices:1"],
        ["nodes", "list"],
        ["nodes", "show", "a"],
        ["cordon", "a"],
        ["drain", "a"],
        ["uncordon", "a"],
        ["demo", "--against-running"],
    ],
    ids=" ".join,
)
def test_without_a_server_a_command_says_so_and_is_unavailable(run, words):
    error = run(*words).exception
    assert isinstance(error, Unavailable)
    assert error.exit_code == 6
    assert "start one with `bpa serve --role all`" in str(error)


def in_the_way(place: Path) -> None:
    place.write_text("a file")


def damaged(place: Path) -> None:
    place.mkdir()
    (place / "addresses.json").write_text('{"http": "http://127')


def not_text(place: Path) -> None:
    place.mkdir()
    (place / "addresses.json").write_bytes(b'{"http": "\xff"}')


def unreadable(place: Path) -> None:
    (place / "addresses.json").mkdir(parents=True)


@pytest.mark.parametrize("make", [in_the_way, damaged, not_text, unreadable])
def test_a_data_directory_that_cannot_be_read_is_named_with_what_to_do(run, tmp_path, make):
    make(tmp_path / "nothing-here")
    error = run("runs", "list").exception
    assert isinstance(error, Unavailable)
    assert str(error).startswith(f"cannot read {tmp_path / 'nothing-here'}/addresses.json (")
    assert str(error).endswith("): set data_dir or control.url")


@pytest.mark.parametrize("words", [["--keep"], ["--data-dir", "x"]], ids=" ".join)
def test_a_demonstration_takes_a_running_server_as_it_is(run, words):
    result = run("demo", "--against-running", *words)
    assert result.exit_code == 2
    assert "takes the running server as it is" in result.output


def test_a_demonstration_wants_the_embedded_target(run):
    error = run("--set", "http_out.base_url=https://api.example.com", "demo").exception
    assert isinstance(error, SettingsError)
    assert "http_out.base_url is set" in str(error)


@pytest.mark.parametrize("timeout", ["0", "-1", "soon"])
def test_a_demonstration_wants_a_limit_that_is_one(run, timeout):
    assert run("demo", "--timeout", timeout).exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        ["runs", "list", "--status", "lost"],
        ["runs", "list", "--limit", "0"],
        ["drain"],
        ["drain", "a", "--force", "--deadline", "5m"],
        ["send"],
        ["send", "missing.json"],
        ["--set", "log.level", "config", "show"],
        ["serve"],
    ],
    ids=" ".join,
)
def test_wrong_use_is_refused(run, words):
    assert run(*words).exit_code == 2


def test_a_deadline_that_is_none_is_named(run):
    error = run("drain", "a", "--deadline", "soon").exception
    assert isinstance(error, InvalidRequest)
    assert error.exit_code == 2
    assert "'soon' is no duration; write for example 60s or 5m" in str(error)


def test_a_file_whose_content_type_nobody_knows_needs_one(run, tmp_path):
    (tmp_path / "scan.pdf").write_bytes(b"%PDF")
    result = run("send", "scan.pdf")
    assert result.exit_code == 2
    assert "--content-type" in result.output


def test_a_file_that_cannot_be_applied_is_named_before_anybody_is_asked(run, tmp_path):
    (tmp_path / "agent.json").write_text('{"agentId": "a"}')
    error = run("apply", "agent.json").exception
    assert isinstance(error, InvalidRequest)
    assert "agent.json" in str(error)


def test_an_empty_folder_to_apply_is_no_success(run, tmp_path):
    (tmp_path / "empty").mkdir()
    error = run("apply", "empty").exception
    assert isinstance(error, NotFound)


def test_settings_are_shown_with_where_they_come_from_and_without_secrets(run, monkeypatch):
    monkeypatch.setenv("BPA_ANTHROPIC__API_KEY", "sk-secret")
    out = run("--set", "node.slots=3", "config", "show", "--origin").output
    assert "anthropic.api_key = '***'    # BPA_ANTHROPIC__API_KEY" in out
    assert "node.slots = 3    # flag" in out
    assert "# BPA_DATA_DIR" in out
    assert "sk-secret" not in out


def test_settings_are_one_json_document(run):
    shown = json.loads(run("config", "show", "--json").output)
    assert shown["control.http_port"] == {"value": 8080, "origin": "default"}


def test_what_to_try_works_from_any_folder_and_without_a_path(run, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sys.argv", [".venv/bin/bpa", "serve"])
    _print_addresses("all", Addresses(http="http://127.0.0.1:8080"))
    words = capsys.readouterr().out.splitlines()[-1].split()
    assert words[:3] == ["Try:", ".venv/bin/bpa", "send"]
    pattern = Path(words[3])
    assert pattern.is_absolute()
    assert list(pattern.parent.glob(pattern.name))
