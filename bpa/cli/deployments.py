"""``bpa deployments``: which agents work on which queues, paused, resumed and edited."""

from __future__ import annotations

import asyncio

import click
import msgspec
from rich.text import Text

from bpa.cli import completing, deployments_edit
from bpa.cli.api import open_api
from bpa.cli.context import json_option, print_json, whoami
from bpa.cli.cordon import runs
from bpa.cli.tables import ROOMY_CHARS, ago, cut, facts, output, table, whole
from bpa.control.rest.deployment_schemas import Deployment
from bpa.control.rest.schemas import Document
from bpa.domain.specs import DeploymentSpec
from bpa.errors import Unavailable
from bpa.words import segment


class Deployments(Document, frozen=True):
    """What ``deployments list --json`` prints."""

    deployments: list[Deployment]


@click.group("deployments")
def command() -> None:
    """Look at deployments, edit, pause and resume them; `bpa apply FILE` makes them."""


for _more in (deployments_edit.edit, deployments_edit.history, deployments_edit.rollback):
    command.add_command(_more)


@command.command("list", short_help="List the deployments.")
@click.option("--environment", metavar="NAME", help="Only those of this environment.")
@json_option
@click.pass_context
def list_deployments(context: click.Context, *, environment: str | None, as_json: bool) -> None:
    """List the deployments: which version works on which queue, and how many runs are alive.

    A paused one receives nothing and starts nothing; what runs goes on.

    \b
    Examples:
      bpa deployments list
      bpa deployments list --environment prod --json
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    found = asyncio.run(_list(context, environment))
    if as_json:
        print_json(Deployments(deployments=found))
        return
    if not found:
        click.echo("nothing is deployed; make a deployment with `bpa apply FILE`", err=True)
        return
    console = output()
    more = ("environment", "slots") if console.width >= ROOMY_CHARS else ()
    rows = table("deployment", "version", "state", "alive", *more, "queue",
                 right=("alive", "slots"), cut="queue")  # fmt: skip
    for one in found:
        spec = one.spec.get("target") or {}
        slots = f"{spec.get('slotBudget', '')} x {spec.get('replicas', 1)}"
        rows.add_row(
            one.deployment_id,
            one.version,
            _state(one),
            str(one.alive),
            *(one.environment, slots)[: len(more)],
            cut(one.queue),
        )
    console.print(whole(rows, "deployment"))


@command.command("show", short_help="Show all of one deployment.")
@click.argument("deployment_id", metavar="DEPLOYMENT", shell_complete=completing.deployment_ids)
@json_option
@click.pass_context
def show_deployment(context: click.Context, *, deployment_id: str, as_json: bool) -> None:
    """Show one deployment: its limits, where its runs may go, and where they post.

    Exits with 3 when there is no such deployment.

    \b
    Examples:
      bpa deployments show invoice-classifier-dev
      bpa deployments show invoice-classifier-dev --json | jq .spec
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    found = asyncio.run(_get(context, deployment_id))
    if as_json:
        print_json(found)
        return
    output().print(facts(_facts(found)))


@command.command("pause", short_help="Receive and start nothing for a deployment.")
@click.argument("deployment_id", metavar="DEPLOYMENT", shell_complete=completing.deployment_ids)
@deployments_edit.if_match_option
@json_option
@click.pass_context
def pause(
    context: click.Context, *, deployment_id: str, if_match: str | None, as_json: bool
) -> None:
    """Receive nothing for a deployment and start none of its runs.

    What runs goes on. The queue keeps what comes, and no other deployment may feed from it.
    Pausing it again changes nothing.

    Exits with 3 when there is no such deployment, and with 5 when --if-match does not hold.

    \b
    Examples:
      bpa deployments pause invoice-classifier-dev
      bpa deployments pause invoice-classifier-dev --if-match 1
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    changed = asyncio.run(_post(context, deployment_id, "pause", if_match))
    if as_json:
        print_json(changed)
        return
    click.echo(f"{deployment_id} is paused: nothing is received for it and nothing starts")
    click.echo(
        f"{runs(changed.alive)} not ended yet; those at work go on. "
        f"`bpa deployments resume {deployment_id}` ends it",
        err=True,
    )


@command.command("resume", short_help="Receive and start again.")
@click.argument("deployment_id", metavar="DEPLOYMENT", shell_complete=completing.deployment_ids)
@deployments_edit.if_match_option
@json_option
@click.pass_context
def resume(
    context: click.Context, *, deployment_id: str, if_match: str | None, as_json: bool
) -> None:
    """Receive and start again for a deployment that was paused.

    Resuming one that is not paused changes nothing.

    Exits with 3 when there is no such deployment, and with 5 when --if-match does not hold.

    \b
    Examples:
      bpa deployments resume invoice-classifier-dev
      bpa deployments resume invoice-classifier-dev --if-match 1-paused
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    changed = asyncio.run(_post(context, deployment_id, "resume", if_match))
    if as_json:
        print_json(changed)
    else:
        click.echo(f"{deployment_id} is active")


async def _list(context: click.Context, environment: str | None) -> list[Deployment]:
    async with open_api(context) as api:
        return await api.get("/v1/deployments", list[Deployment], environment=environment)


async def _get(context: click.Context, deployment_id: str) -> Deployment:
    async with open_api(context) as api:
        return await api.get(f"/v1/deployments/{segment(deployment_id)}", Deployment)


async def _post(
    context: click.Context, deployment_id: str, verb: str, if_match: str | None
) -> Deployment:
    async with open_api(context) as api:
        return await api.post(
            f"/v1/deployments/{segment(deployment_id)}:{verb}",
            {"requestedBy": whoami()},
            Deployment,
            if_match=if_match and if_match.strip('"'),
        )


def _state(deployment: Deployment) -> Text:
    return Text("paused", "yellow") if deployment.paused_at else Text("active", "green")


def _facts(deployment: Deployment) -> list[tuple[str, object]]:
    try:
        spec = msgspec.convert(deployment.spec, DeploymentSpec)
    except msgspec.ValidationError as error:
        raise Unavailable("control is of another version; --json shows what it says") from error
    target, budgets = spec.target, spec.budgets
    since = deployment.paused_at
    usd = f", {budgets.max_usd} USD" if budgets.max_usd is not None else ""
    return [
        ("deployment", deployment.deployment_id),
        ("state", _state(deployment)),
        ("paused", f"{ago(since)} ago, by {deployment.paused_by}" if since else ""),
        ("agent", f"{deployment.agent_id} {deployment.version}"),
        ("environment", deployment.environment),
        ("queue", deployment.queue),
        ("alive", runs(deployment.alive)),
        ("at once", f"{spec.run_limit} runs ({target.slot_budget} x {target.replicas} replicas)"),
        ("budget", f"{budgets.max_tokens:,} tokens, {budgets.max_calls} calls, "
                   f"{budgets.max_duration}{usd} each run"),
        ("each needs", f"cpu {target.resources.cpu}, memory {target.resources.memory}"),
        ("on nodes with", " and ".join(
            f"{label} {' or '.join(values)}" for label, values in spec.placement.affinity.items()
        )),
        ("posts to", spec.http_out.base_url or "http_out.base_url of the nodes"),
        ("routes", ", ".join(spec.routes)),
        ("revision", f"{deployment.revision}; `bpa deployments history` has who and when"),
        ("created", f"{ago(deployment.created_at)} ago"),
    ]  # fmt: skip
