"""The command: every check at once, told in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import click
from rich.console import Console
from rich.text import Text

from bpa.cli.context import json_option, loaded, print_json
from bpa.cli.doctor import machine, outside, stores
from bpa.cli.doctor.findings import Check, Finding, Report, State, Subject, bounded, failed, ok
from bpa.cli.tables import messages, output, table
from bpa.config import Loaded
from bpa.errors import SettingsError, Unavailable
from bpa.roles.addresses import read_addresses

CHECKS: tuple[Check, ...] = (
    machine.python,
    machine.data_dir,
    machine.ports,
    outside.server,
    stores.postgres,
    stores.valkey,
    stores.service_bus,
    machine.config,
    machine.sandbox,
    outside.link,
    outside.model,
    outside.target,
    outside.telemetry,
)
_STYLES = {State.OK: "green", State.WARNING: "yellow", State.FAILED: "red"}
_WORST = (State.FAILED, State.WARNING, State.OK)
_FAILURE, _USAGE = 1, 2


@click.command("doctor")
@click.option(
    "--role",
    type=click.Choice(("all", "control", "node")),
    default="all",
    show_default=True,
    help="What is to run here with these settings.",
)
@json_option
@click.pass_context
def command(context: click.Context, *, role: str, as_json: bool) -> None:
    """Find what is wrong with a set-up, and say what to do.

    Looks at the settings, this host (Python, packages, ports, disk, what confines a sandbox) and at
    all that the role needs and the settings name: Postgres with its version, rights, clock and
    schema, Valkey, each queue with its MaxDeliveryCount and the Manage right, the model, the
    target, control, a collector. It changes nothing, posts nothing and spends no token. What no
    setting names is embedded in role all, and missing in the others.

    Exits with 0 when nothing stands in the way (warnings included), with 1 when something does,
    and with 2 when a setting is wrong.

    \b
    Examples:
      bpa doctor
      bpa doctor --role control && bpa serve --role control
      bpa doctor --json | jq -r '.findings[] | select(.state != "ok") | .toDo'
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    try:
        settings = loaded(context)
    except SettingsError as error:
        to_do = "correct it; `bpa config show` lists what can be set"
        findings = [failed("settings", problem, to_do) for problem in error.problems]
        _report(role, findings, as_json=as_json)
        context.exit(_USAGE)
    findings = [_told(settings), *asyncio.run(_examined(settings, role, is_quiet=as_json))]
    _report(role, findings, as_json=as_json)
    if any(finding.state is State.FAILED for finding in findings):
        context.exit(_FAILURE)


def _told(settings: Loaded) -> Finding:
    made = sorted({origin for origin in settings.origins.values() if origin != "default"})
    return ok("settings", f"valid; from {', '.join(made)}" if made else "valid, all by default")


async def _examined(settings: Loaded, role: str, *, is_quiet: bool) -> list[Finding]:
    subject = Subject(settings.settings, role, None)
    try:
        subject = Subject(settings.settings, role, read_addresses(subject.data_dir))
    except Unavailable as error:
        return [failed("data dir", str(error), "set data_dir")]
    findings: list[Finding] = []
    console = Console(quiet=True) if is_quiet else messages()
    with console.status("looks ...") as shown:
        async with asyncio.TaskGroup() as group:
            tasks = [(check, group.create_task(bounded(check, subject))) for check in CHECKS]
            for number, (check, task) in enumerate(tasks, 1):
                what = check.__name__.replace("_", " ")
                shown.update(f"{number} of {len(tasks)}: {what} ...")
                findings += await task
    return findings


def _report(role: str, findings: Sequence[Finding], *, as_json: bool) -> None:
    states = {finding.state for finding in findings}
    worst = next(state for state in _WORST if state in states)
    if as_json:
        print_json(Report(role=role, state=worst, findings=[*findings]))
        return
    rows = table("check", "state", "found")
    rows.columns[2].no_wrap = False
    rows.columns[2].overflow = "fold"
    for one in findings:
        found = Text(one.found)
        if one.to_do:
            found.append(f"\n-> {one.to_do}", style="bold")
        rows.add_row(one.check, Text(one.state, style=_STYLES[one.state]), found)
    output().print(rows)
    counted = {state: sum(one.state is state for one in findings) for state in _WORST}
    said = ", ".join(f"{count} {state}" for state, count in counted.items() if count)
    click.echo(said, err=True)
