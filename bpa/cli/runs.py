"""``bpa runs``: what became of the messages."""

from __future__ import annotations

import asyncio
from typing import Any

import click
from rich.console import Console

from bpa.cli import completing
from bpa.cli.api import Api, open_api
from bpa.cli.context import json_option, print_json
from bpa.cli.runs_acts import cancel, retry
from bpa.cli.runs_logs import logs
from bpa.cli.runs_show import show, took
from bpa.cli.runs_watch import watch
from bpa.cli.runs_words import state, why
from bpa.cli.tables import (
    ROOMY_CHARS,
    ago,
    cut,
    output,
    table,
    whole,
)  # fmt: skip
from bpa.control.rest.deployment_schemas import Deployment
from bpa.control.rest.run_schemas import RunPage, RunSummary
from bpa.control.rest.schemas import Document
from bpa.domain.runs import RunStatus
from bpa.errors import NotFound
from bpa.words import span, usd_exactly

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
command.add_command(cancel)
command.add_command(retry)


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


def _print_runs(console: Console, runs: list[RunSummary]) -> None:
    figures = ("age", "took", "tokens", "USD") if console.width >= ROOMY_CHARS else ("age",)
    rows = table("run", "status", *figures, "why", right=figures, cut="why")
    for run in runs:
        values = {
            "age": ago(run.created_at),
            "took": took(run),
            "tokens": f"{run.tokens_used:,}",
            "USD": usd_exactly(run.cost_usd),
        }
        shown = [values[name] for name in figures]
        rows.add_row(run.run_id, state(run), *shown, cut(why(run)))
    console.print(whole(rows, "run"))


def _took(run: RunSummary) -> str:
    return span((run.ended_at - run.created_at).total_seconds()) if run.ended_at else ""
