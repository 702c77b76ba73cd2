"""``bpa runs``: what became of the messages."""

from __future__ import annotations

import asyncio
import getpass
from typing import Any

import click
from rich.console import Console

from bpa.cli import completing
from bpa.cli.api import Api, open_api, segment
from bpa.cli.context import json_option, print_json, whoami
from bpa.cli.dlq_replay import REPLAY_S, exit_code, print_replayed
from bpa.cli.runs_logs import logs
from bpa.cli.runs_show import show, took
from bpa.cli.runs_watch import watch
from bpa.cli.runs_words import state, why
from bpa.cli.tables import (
    ROOMY_CHARS,
    ago,
    cut,
    output,
    span,
    table,
    usd,
    whole,
)  # fmt: skip
from bpa.control.rest.dead_letter_schemas import Retried
from bpa.control.rest.run_schemas import Cancel, Cancelled, RunPage, RunSummary
from bpa.control.rest.schemas import Deployment, Document
from bpa.domain.runs import RunStatus
from bpa.errors import NotFound

_PAGE = 500


class _Status(click.Choice[str]):
    """A state, also as tables show it: dead-lettered for dead_lettered."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(str(value).replace("-", "_"), param, ctx)


class Runs(Document, frozen=True):
    """What ``runs list --json`` prints."""

    runs: list[RunSummary]
    more: bool
    """There are more than ``--limit`` let through."""


@click.group("runs")
def command() -> None:
    """Look at runs: one for each message, from its receipt to its one outcome."""


command.add_command(watch)
command.add_command(logs)
command.add_command(show)


@command.command("list", short_help="List runs, newest first, or look for some.")
@click.argument("query", metavar="[QUERY]...", nargs=-1)
@click.option(
    "--status",
    "wanted",
    type=_Status([one.value for one in RunStatus]),
    help="Only runs in this state.",
)
@click.option(
    "--deployment",
    metavar="ID",
    help="Only runs of this deployment.",
    shell_complete=completing.deployment_ids,
)
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="So many at most."
)
@json_option
@click.pass_context
def list_runs(
    context: click.Context,
    *,
    query: tuple[str, ...],
    wanted: str | None,
    deployment: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List runs, newest first, each with why it waits or how it ended.

    QUERY narrows them: words of the vendor, of the invoice's or the message's id, and qualifiers,
    all of which have to apply. status, agent, deployment, node, queue, reason (or error), trace and
    replay take a value; attempt, cost and tokens a number, as >1 or <=0.05; since and until a date,
    or how long ago, as 1h or 7d. status:active means those that have not ended.

    Exits with 2 when the query cannot be read, with 3 when there is no such deployment.

    \b
    Examples:
      bpa runs list status:dead_lettered error:AgentError since:1h
      bpa runs list acme 'cost:>0.05' 'attempt:>1'
      bpa runs list --status dead-lettered
      bpa runs list --deployment invoice-classifier-dev --limit 500
      bpa runs list --json | jq -r '.runs[].runId'
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    runs, more = asyncio.run(_list(context, " ".join(query), wanted, deployment, limit))
    if as_json:
        print_json(Runs(runs=runs, more=more))
        return
    if not runs:
        click.echo("no runs", err=True)
        return
    _print_runs(output(), runs)
    if more:
        click.echo(f"more than {limit}; --limit shows more", err=True)


@command.command("cancel", short_help="End a living run.")
@click.argument("run_id", metavar="RUN", shell_complete=completing.run_ids)
@click.option(
    "--detail", default="no reason given", metavar="TEXT", help="Why, for the dead letter."
)
@json_option
@click.pass_context
def cancel_run(context: click.Context, *, run_id: str, detail: str, as_json: bool) -> None:
    """End a living run; its message goes to the dead-letter queue as Cancelled.

    A run that waits ends at once. One that works is asked to stop: its node hears it with its next
    heartbeat, and what it has not ended after control.cancel_grace_s is ended without it. What a
    run has already sent to the target stays sent; if that was its effect, it is completed instead.
    Cancelling it again changes nothing.

    Exits with 3 when there is no such run and with 5 when it has ended.

    \b
    Examples:
      bpa runs cancel 019f1c3e-6a52-8d0f-b0a4-6d1f1d9a2c11 --detail 'sent twice'
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    cancelled = asyncio.run(_cancel(context, run_id, detail))
    if as_json:
        print_json(cancelled)
    elif cancelled.cancelling:
        click.echo(f"{run_id} is cancelling: its node has been asked to end it")
    else:
        click.echo(f"{run_id} is cancelled")


@command.command("retry", short_help="Try a run again.")
@click.argument("run_id", metavar="RUN", shell_complete=completing.run_ids)
@json_option
@click.pass_context
def retry_run(context: click.Context, *, run_id: str, as_json: bool) -> None:
    """Try a run again: replay its dead letter, or end its backoff.

    The replay of a dead-lettered run's message is a new run, which goes on from what this one has
    recorded under the same key; see `bpa dlq replay --help`. A run that waits to be tried again is
    tried now; one that is parked until its target answers goes on waiting for that, and says so.

    Exits with 3 when there is no such run, and with 5 when it is at work, has completed or was
    replayed before.

    \b
    Examples:
      bpa runs retry 019f1c3e-6a52-8d0f-b0a4-6d1f1d9a2c11
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    retried = asyncio.run(_retry(context, run_id))
    if as_json:
        print_json(retried)
    elif retried.waits_for:
        click.echo(f"{retried.run_id} waits still, for more than its turn: {retried.waits_for}")
    elif retried.replayed is None:
        click.echo(f"{retried.run_id} backs off no more: it is placed as soon as there is room")
    else:
        print_replayed(retried.replayed)
    if retried.replayed is not None:
        context.exit(exit_code([retried.replayed]))


async def _list(
    context: click.Context, query: str, wanted: str | None, deployment: str | None, limit: int
) -> tuple[list[RunSummary], bool]:
    runs: list[RunSummary] = []
    cursor: str | None = None
    async with open_api(context) as api:
        while True:
            page = await api.get(
                "/v1/runs",
                RunPage,
                q=query or None,
                status=wanted,
                deployment=deployment,
                limit=min(_PAGE, limit - len(runs)),
                cursor=cursor,
            )
            runs += page.runs
            cursor = page.next_cursor
            if cursor is None or len(runs) >= limit:
                break
        if deployment and not runs:
            await _check_deployment(api, deployment)
        return runs, cursor is not None


async def _check_deployment(api: Api, deployment: str) -> None:
    """Tell a deployment without runs from none; raises ``NotFound``, with those there are."""
    known = [one.deployment_id for one in await api.get("/v1/deployments", list[Deployment])]
    if deployment not in known:
        raise NotFound(
            f"there is no deployment {deployment!r}; there are {', '.join(known) or 'none'}"
        )


async def _retry(context: click.Context, run_id: str) -> Retried:
    async with open_api(context) as api:
        path = f"/v1/runs/{segment(run_id)}:retry"
        return await api.post(path, {"requestedBy": whoami()}, Retried, timeout_s=REPLAY_S)


async def _cancel(context: click.Context, run_id: str, detail: str) -> Cancelled:
    actor = f"cli:{getpass.getuser()}"
    async with open_api(context) as api:
        body = Cancel(actor=actor, detail=f"cancelled by {actor}: {detail}")
        return await api.post(f"/v1/runs/{segment(run_id)}:cancel", body, Cancelled)


def _print_runs(console: Console, runs: list[RunSummary]) -> None:
    figures = ("age", "took", "tokens", "USD") if console.width >= ROOMY_CHARS else ("age",)
    rows = table("run", "status", *figures, "why", right=figures, cut="why")
    for run in runs:
        values = {
            "age": ago(run.created_at),
            "took": took(run),
            "tokens": f"{run.tokens_used:,}",
            "USD": usd(run.cost_usd),
        }
        shown = [values[name] for name in figures]
        rows.add_row(run.run_id, state(run), *shown, cut(why(run)))
    console.print(whole(rows, "run"))


def _took(run: RunSummary) -> str:
    return span((run.ended_at - run.created_at).total_seconds()) if run.ended_at else ""
