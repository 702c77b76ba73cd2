"""Recording rules and alerts, as promtool sees them, and what they promise to say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import yaml

from bpa.cli import cli
from observability.grafana import dashboards
from observability.programs import Programs
from tests.promtool import promtool

ROOT = Path(__file__).parents[3]
ALERTS = ROOT / "config" / "alerts"
CASES = Path(__file__).with_name("rules.yml")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def rules(kind: str) -> list[dict[str, Any]]:
    """Return the rules of all files that are of a kind, ``alert`` or ``record``."""
    groups = [group for path in sorted(ALERTS.glob("*.yml")) for group in read(path)["groups"]]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def test_promtool_has_nothing_to_say_about_the_rules(prometheus: Programs) -> None:
    promtool(prometheus, "check", "rules", "--lint-fatal", *sorted(ALERTS.glob("*.yml")))


def test_each_alert_fires_when_it_must_and_not_otherwise(
    prometheus: Programs, tmp_path: Path
) -> None:
    cases = read(CASES)
    for name in cases["rule_files"]:  # without words: promtool wants them all to the letter
        found = read(CASES.parent / name)
        for group in found["groups"]:
            for rule in group["rules"]:
                rule.pop("annotations", None)
        (tmp_path / Path(name).name).write_text(yaml.safe_dump(found), "utf-8")
    cases["rule_files"] = [Path(name).name for name in cases["rule_files"]]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(cases), "utf-8")
    promtool(prometheus, "test", "rules", tmp_path / "rules.yml")


def test_each_alert_is_tested_for_both() -> None:
    tried = [case for test in read(CASES)["tests"] for case in test.get("alert_rule_test", [])]
    fired = {case["alertname"] for case in tried if case["exp_alerts"]}
    silent = {case["alertname"] for case in tried if not case["exp_alerts"]}
    named = {rule["alert"] for rule in rules("alert")}
    assert named - fired == set()
    assert named - silent == set()


def test_each_alert_says_what_to_do_and_leads_to_its_section_of_the_runbook() -> None:
    titles = re.findall(r"^## (.+)$", (ROOT / "docs" / "runbooks.md").read_text("utf-8"), re.M)
    names = [rule["alert"] for rule in rules("alert")]
    assert titles[: len(names)] == names, "in the order of the alerts"
    for rule in rules("alert"):
        said = rule["annotations"]
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert set(said) == {"summary", "description", "runbook"}, rule["alert"]
        assert said["runbook"] == f"docs/runbooks.md#{rule['alert'].lower()}"


def test_every_command_that_is_advised_exists() -> None:
    texts = [(ROOT / "docs" / "runbooks.md").read_text("utf-8")]
    texts += [rule["annotations"]["description"] for rule in rules("alert")]
    texts += [panel.help for board in dashboards().values() for panel in board.panels]
    advised = {
        found for text in texts for found in re.findall(r"\bbpa ([a-z]+)(?: ([a-z]+))?", text)
    }
    assert len(advised) > 10
    with click.Context(cli) as context:
        for word, second in advised:
            command = cli.get_command(context, word)
            assert command is not None, f"bpa {word}"
            if isinstance(command, click.Group):
                assert command.get_command(context, second) is not None, f"bpa {word} {second}"
