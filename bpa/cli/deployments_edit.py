"""``bpa deployments edit|history|rollback``: another revision, looked at before it is saved."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.text import Text

from bpa.cli import completing
from bpa.cli.api import Api, open_api
from bpa.cli.context import json_option, print_json, whoami
from bpa.cli.tables import ROOMY_CHARS, ago, cut, facts, messages, output, table, whole
from bpa.control.rest.deployment_schemas import Deployment
from bpa.control.rest.revision_schemas import (
    Change,
    FleetEffect,
    Revision,
    RevisionPage,
    Simulation,
    Standing,
)
from bpa.control.rest.schemas import Document
from bpa.errors import Conflict, InvalidRequest
from bpa.words import segment

if_match_option = click.option(
    "--if-match", metavar="ETAG", help="Refuse when it has changed since it had this ETag."
)
_note = click.option("--note", default="", metavar="TEXT", help="Why, for who reads the history.")
_dry_run = click.option(
    "--dry-run", is_flag=True, help="Say what would change, and what the fleet would do; no more."
)
_VALUE_CHARS = 60
_CHANGES_IN_A_LINE = 3


class History(Document, frozen=True):
    """What ``deployments history --json`` prints."""

    deployment_id: str
    revisions: list[Revision]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the command line asks for."""

    deployment_id: str
    file: str | None
    settings: Sequence[str]
    note: str
    if_match: str | None
    dry_run: bool
    yes: bool

    @property
    def is_script(self) -> bool:
        """Whether nobody has to edit anything."""
        return self.file is not None or bool(self.settings)


@click.command("edit", short_help="Change a deployment, as its next revision.")
@click.argument("deployment_id", metavar="DEPLOYMENT", shell_complete=completing.deployment_ids)
@click.option(
    "--file", "file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="The whole spec as JSON; - reads standard input.",
)  # fmt: skip
@click.option(
    "--set", "settings", metavar="PATH=VALUE", multiple=True,
    help="Set one value, as target.slotBudget=8; the value is JSON, or else a text.",
)  # fmt: skip
@_note
@_dry_run
@if_match_option
@click.option("--yes", is_flag=True, help="Save what was edited without asking.")
@json_option
@click.pass_context
def edit(context: click.Context, /, *, as_json: bool, **wanted: Any) -> None:
    """Change a deployment: in $EDITOR, from a file, or value by value.

    What would change and what it does to the present fleet is shown first. Runs at work go on. The
    agent and the environment make its name and stay; the queue changes while it is paused and none
    of its runs is alive. An edit that somebody else was faster than changes nothing; what was typed
    is kept in a file.

    Exits with 2 when the spec is not valid, with 3 when there is no such deployment, and with 5
    when it has changed meanwhile.

    \b
    Examples:
      bpa deployments edit invoice-classifier-dev
      bpa deployments edit invoice-classifier-dev --set target.slotBudget=8 --note "month end"
      bpa deployments edit invoice-classifier-dev --set 'routes=["it","general"]' --dry-run
      bpa deployments show invoice-classifier-dev --json | jq .spec > spec.json
      bpa deployments edit invoice-classifier-dev --file spec.json --if-match 4
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    asyncio.run(_edit(context, _Wanted(**wanted), as_json=as_json))


@click.command("history", short_help="List what a deployment said since when, by whose will.")
@click.argument("deployment_id", metavar="DEPLOYMENT", shell_complete=completing.deployment_ids)
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True)
@json_option
@click.pass_context
def history(context: click.Context, *, deployment_id: str, limit: int, as_json: bool) -> None:
    """List a deployment's revisions, the latest first: when, who, why and what changed.

    Exits with 3 when there is no such deployment.

    \b
    Examples:
      bpa deployments history invoice-classifier-dev
      bpa deployments history invoice-classifier-dev --json | jq '.revisions[0].changes'
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    revisions = asyncio.run(_history(context, deployment_id, limit))
    if as_json:
        print_json(History(deployment_id=deployment_id, revisions=revisions))
        return
    console = output()
    more = ("by",) if console.width >= ROOMY_CHARS else ()
    rows = table("revision", "when", *more, "what", right=("revision",), cut="what")
    for one in revisions:
        what = one.note or _in_a_line(one.changes) or "-"
        again = f"as {one.restores}: " if one.restores else ""
        rows.add_row(
            f"{one.revision}{'*' if one.present else ''}",
            f"{ago(one.created_at)} ago",
            *(one.requested_by,)[: len(more)],
            cut(f"{again}{what}"),
        )
    console.print(whole(rows, "revision"))
    click.echo("* is what it says now", err=True)


@click.command("rollback", short_help="Give a deployment an earlier revision's spec again.")
@click.argument("deployment_id", metavar="DEPLOYMENT", shell_complete=completing.deployment_ids)
@click.option("--to", type=click.IntRange(1), required=True, metavar="N", help="The revision.")
@_note
@_dry_run
@if_match_option
@json_option
@click.pass_context
def rollback(
    context: click.Context,
    *,
    deployment_id: str,
    to: int,
    note: str,
    dry_run: bool,
    if_match: str | None,
    as_json: bool,
) -> None:
    """Give a deployment the spec of an earlier revision again, as its next one.

    Exits with 3 when there is no such deployment or revision, and with 5 when it has changed
    meanwhile.

    \b
    Examples:
      bpa deployments rollback invoice-classifier-dev --to 3 --dry-run
      bpa deployments rollback invoice-classifier-dev --to 3 --note "too slow"
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    asyncio.run(
        _rollback(context, deployment_id, to, note, if_match, dry_run=dry_run, as_json=as_json)
    )


async def _edit(context: click.Context, wanted: _Wanted, *, as_json: bool) -> None:
    async with open_api(context) as api:
        path = f"/v1/deployments/{segment(wanted.deployment_id)}"
        present = await api.get(path, Deployment)
        tree = _given(wanted, present.spec)
        if tree is None:
            click.echo("nothing was changed", err=True)
            return
        try:
            await _save(api, path, tree, wanted, present.etag, as_json=as_json)
        except (Conflict, InvalidRequest) as error:
            if wanted.is_script:
                raise
            raise type(error)(f"{error}; what you typed is kept in {_kept(tree)}") from error


async def _save(
    api: Api, path: str, tree: Any, wanted: _Wanted, present: str, *, as_json: bool
) -> None:
    simulated = await api.post(f"{path}:simulate", {"spec": tree}, Simulation)
    if _is_enough(simulated, dry_run=wanted.dry_run, as_json=as_json):
        return
    if not wanted.is_script and not wanted.yes and simulated.changes:
        click.confirm("Save it?", abort=True, err=True)
    body = {"spec": tree, "note": wanted.note, "requestedBy": whoami()}
    tag = (wanted.if_match or present).strip('"')
    saved = await api.put(path, body, Deployment, if_match=tag)
    _done(saved, simulated, as_json=as_json)


async def _rollback(
    context: click.Context,
    deployment_id: str,
    revision: int,
    note: str,
    if_match: str | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    async with open_api(context) as api:
        path = f"/v1/deployments/{segment(deployment_id)}"
        present = await api.get(path, Deployment)
        earlier = await api.get(f"{path}/revisions/{revision}", Revision)
        simulated = await api.post(f"{path}:simulate", {"spec": earlier.spec}, Simulation)
        if _is_enough(simulated, dry_run=dry_run, as_json=as_json):
            return
        body = {"to": revision, "note": note, "requestedBy": whoami()}
        tag = (if_match or present.etag).strip('"')
        saved = await api.post(f"{path}:rollback", body, Deployment, if_match=tag)
        _done(saved, simulated, as_json=as_json)


async def _history(context: click.Context, deployment_id: str, limit: int) -> list[Revision]:
    async with open_api(context) as api:
        path = f"/v1/deployments/{segment(deployment_id)}/revisions"
        return (await api.get(path, RevisionPage, limit=limit)).revisions


async def update(api: Api, path: str, spec: Any, present: Deployment) -> Deployment:
    """Give a deployment another spec, unless it has changed since it was read."""
    body = {"spec": spec, "note": "bpa apply", "requestedBy": whoami()}
    return await api.put(path, body, Deployment, if_match=present.etag)


def _given(wanted: _Wanted, spec: dict[str, Any]) -> Any:
    """Return the spec that is asked for; None where nothing was typed."""
    if not wanted.is_script:
        if not sys.stdin.isatty():
            raise click.UsageError("nobody can edit here: give --file FILE or --set PATH=VALUE")
        text = msgspec.json.format(msgspec.json.encode(spec), indent=2).decode()
        typed = click.edit(text, extension=".json")
        return None if typed is None else _parsed(typed.encode(), "what you typed")
    if wanted.file is not None:
        with click.open_file(wanted.file, "rb") as file:
            spec = _parsed(file.read(), wanted.file)
    for setting in wanted.settings:
        _set(spec, setting)
    return spec


def _parsed(text: bytes, what: str) -> Any:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"{what} is no JSON object: {error}") from error


def _set(tree: dict[str, Any], setting: str) -> None:
    path, equals, text = setting.partition("=")
    if not equals or not path:
        raise InvalidRequest(f"--set {setting}: write PATH=VALUE, as target.slotBudget=8")
    *outer, last = path.split(".")
    for key in outer:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise InvalidRequest(f"--set {setting}: {key} holds no further values")
    try:
        tree[last] = msgspec.json.decode(text.encode())
    except msgspec.MsgspecError:
        tree[last] = text


def _kept(tree: Any) -> Path:
    """Keep what was typed; whoever typed it lost to somebody faster."""
    with tempfile.NamedTemporaryFile("wb", prefix="bpa-", suffix=".json", delete=False) as file:
        file.write(msgspec.json.format(msgspec.json.encode(tree), indent=2))
    return Path(file.name)


def _is_enough(simulated: Simulation, *, dry_run: bool, as_json: bool) -> bool:
    """Show what would come of it; say whether that is all that was asked for.

    Raises:
        InvalidRequest: Nothing can come of it.
    """
    if dry_run or not simulated.valid:
        _show(simulated, as_json=as_json)
    elif not as_json:
        _tell(simulated)
    if not simulated.valid:
        raise InvalidRequest("the deployment would not be valid; nothing was changed")
    return dry_run


def _done(saved: Deployment, simulated: Simulation, *, as_json: bool) -> None:
    if as_json:
        print_json(saved)
    elif simulated.changes:
        click.echo(f"{saved.deployment_id} is at revision {saved.revision}")
    else:
        click.echo(f"{saved.deployment_id} says so already")


def _show(simulated: Simulation, *, as_json: bool) -> None:
    """Print what a dry run finds: it is the data that was asked for."""
    if as_json:
        print_json(simulated)
        return
    console = output()
    for problem in simulated.problems:
        console.print(Text(f"{problem.field or 'the whole'}: {problem.problem}", style="red"))
    if simulated.changes:
        console.print(whole(_diff(simulated.changes), "field"))
    elif simulated.valid:
        console.print("nothing would change")
    for caution in simulated.cautions:
        console.print(Text(f"! {caution}", style="yellow"))
    if simulated.fleet:
        console.print(facts(_of_fleet(simulated.fleet)))


def _tell(simulated: Simulation) -> None:
    """Say what is about to change, beside the data."""
    console = messages()
    if simulated.changes:
        console.print(_diff(simulated.changes))
    for caution in simulated.cautions:
        console.print(Text(f"! {caution}", style="yellow"))


def _diff(changes: Sequence[Change]) -> Any:
    rows = table("field", "now", "then", cut="then")
    for change in changes:
        rows.add_row(change.field, _value(change.before), cut(_value(change.after)))
    return rows


def _of_fleet(fleet: FleetEffect) -> list[tuple[str, object]]:
    before, after = fleet.before, fleet.after
    return [
        ("allowed at once", _moved(before.limit, after.limit)),
        ("could be at work at once", _moved(before.at_once, after.at_once)),
        ("could start now", _moved(before.free, after.free)),
        ("at work", fleet.at_work),
        *((node.node_id, _stands(node.before, node.after)) for node in fleet.nodes),
    ]


def _moved(before: int, after: int) -> str:
    return str(after) if before == after else f"{before} -> {after}"


def _stands(before: Standing, after: Standing) -> str:
    said = _standing(after)
    was = _standing(before)
    return said if said == was else f"{said} (now {was})"


def _standing(one: Standing) -> str:
    if one.refuses is not None:
        return f"refuses: {one.refuses}"
    return f"{one.places} places, {one.waits or f'{one.free} free'}"


def _in_a_line(changes: Sequence[Change]) -> str:
    said = [f"{one.field} {_value(one.before)} -> {_value(one.after)}" for one in changes]
    more = len(said) - _CHANGES_IN_A_LINE
    return "; ".join(said[:_CHANGES_IN_A_LINE]) + (f" and {more} more" if more > 0 else "")


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= _VALUE_CHARS else f"{text[: _VALUE_CHARS - 1]}…"
