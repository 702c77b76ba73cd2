"""``bpa runs show``: all of one run."""

from __future__ import annotations

import asyncio
from typing import Any

import click
from rich.console import Console

from bpa.cli import completing
from bpa.cli.api import open_api
from bpa.cli.contents import print_contents
from bpa.cli.context import json_option, print_json, whoami
from bpa.cli.runs_words import state, waits_for
from bpa.cli.steps import prices, print_steps, unknown
from bpa.cli.tables import ago, cut, facts, output, table
from bpa.cli.waterfall import print_waterfall
from bpa.control.rest.content_schemas import RunContents
from bpa.control.rest.run_schemas import ReplayLink, Run, RunSummary, executions_of
from bpa.words import segment, span, usd_exactly


@click.command("show", short_help="Show all of one run.")
@click.argument("run_id", metavar="RUN", shell_complete=completing.run_ids)
@click.option(
    "--contents",
    "wants_contents",
    is_flag=True,
    help="Print what it works on instead: document, prompts, answers, payloads.",
)
@json_option
@click.pass_context
def show(context: click.Context, *, run_id: str, wants_contents: bool, as_json: bool) -> None:
    """Show one run: state, reasons, what took how long, steps and their cost, deliveries.

    A step is recorded once it has its answer, and replayed where a later execution went on from
    that answer instead of asking again: it was paid once. A model call that lost its answer is
    unknown: it may have been billed, for its reservation at most, and is not in the cost.

    What it works on may be personal data. How much of it --contents prints, the setting
    contents.show of control says: nothing, unless set. That you looked is noted in the audit.

    Exits with 3 when there is no such run, and with 4 when its contents are hidden.

    \b
    Examples:
      bpa runs show 019f1c3e-6a52-8d0f-b0a4-6d1f1d9a2c11
      bpa runs show 019f1c3e-6a52-8d0f-b0a4-6d1f1d9a2c11 --contents
      bpa runs show 019f1c3e-6a52-8d0f-b0a4-6d1f1d9a2c11 --json | jq .costUsd
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    if wants_contents:
        found = asyncio.run(_contents(context, run_id))
        if as_json:
            print_json(found)
        else:
            print_contents(output(), found)
        return
    run = asyncio.run(_get(context, run_id))
    if as_json:
        print_json(run)
    else:
        _print_run(output(), run)


async def _get(context: click.Context, run_id: str) -> Run:
    async with open_api(context) as api:
        return await api.get(f"/v1/runs/{segment(run_id)}", Run)


async def _contents(context: click.Context, run_id: str) -> RunContents:
    async with open_api(context) as api:
        path = f"/v1/runs/{segment(run_id)}/contents"
        return await api.get(path, RunContents, requestedBy=whoami())


def took(run: RunSummary) -> str:
    """Return how long a run took; empty until it has ended."""
    return span((run.ended_at - run.created_at).total_seconds()) if run.ended_at else ""


def _cancelling(run: Run) -> str:
    if run.cancel_asked_at is None:
        return ""
    return f"asked by {run.cancel_asked_by} at {run.cancel_asked_at:%H:%M:%S} UTC"


def _print_run(console: Console, run: Run) -> None:
    source = run.input_ref
    lease = f"epoch {run.lease_epoch}" if run.lease_epoch else ""
    if run.lease_expires_at:
        lease += f", until {run.lease_expires_at:%H:%M:%S} UTC"
    console.print(
        facts(
            [
                ("run", run.run_id),
                ("status", state(run)),
                ("reason", run.reason),
                ("detail", run.detail),
                ("waits for", waits_for(run)),
                ("cancel", _cancelling(run)),
                ("parked", f"{ago(run.parked.since)} ago" if run.parked else ""),
                ("message", _message(source)),
                ("properties", _properties(run)),
                ("excerpt", source.get("excerpt")),
                ("deployment", _deployment(run)),
                ("node", run.node_id),
                ("lease", lease),
                ("executions", executions_of(run)),
                ("outcome", _pairs(run.outcome or {})),
                *(("further", _pairs(one)) for one in (run.outcome or {}).get("further", [])),
                ("effect key", run.effect_key),
                ("replay of", run.replay_of),
                ("replayed as", run.replayed_as),
                *(("replay", _replay(link)) for link in run.replays),
                ("trace", run.trace_id),
                ("took", f"{took(run)}, {span(run.worked_s)} of it at work" if took(run) else ""),
                ("tokens", f"{run.tokens_used:,}" if run.steps else ""),
                ("cost", f"{usd_exactly(run.cost_usd)} USD" if run.steps else ""),
                *(("price", line) for line in prices(run)),
                ("unknown calls", unknown(run)),
            ]
        )
    )
    _print_nodes(console, run)
    print_waterfall(console, run)
    if run.steps:
        print_steps(console, run)
    _print_deliveries(console, run)


def _message(source: dict[str, Any]) -> str:
    parts = [
        str(source.get("message_id") or ""),
        f"{source.get('queue')} number {source.get('sequence_number')}",
        f"{source.get('bytes', 0):,} bytes",
        str(source.get("dialect") or ""),
    ]
    return ", ".join(part for part in parts if part)


def _deployment(run: Run) -> str:
    revision = "" if run.revision is None else f", revision {run.revision}"
    return f"{run.deployment_id}{revision} ({run.agent_id} {run.version})"


def _properties(run: Run) -> str:
    if run.message is None:
        return ""
    told = {
        "content type": run.message.content_type,
        "correlation id": run.message.correlation_id,
        **run.message.properties,
    }
    return ", ".join(f"{name}={value}" for name, value in told.items() if value is not None)


def _replay(link: ReplayLink) -> str:
    who = f", by {link.requested_by}" if link.requested_by else ""
    edited = ", with another body" if link.edited else ""
    return f"{link.replay_number}: {link.run_id}, {link.status or 'not there yet'}{edited}{who}"


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if name != "further")


def _print_nodes(console: Console, run: Run) -> None:
    if not run.waiting_nodes:
        return
    rows = table("node", "why not there", cut="why not there")
    for node, reason in run.waiting_nodes.items():
        rows.add_row(node, cut(str(reason)))
    console.print()
    console.print(rows)


def _print_deliveries(console: Console, run: Run) -> None:
    rows = table("delivery", "received", "settled", "as", "by", right=("delivery",), cut="by")
    for number, delivery in enumerate(run.deliveries, 1):
        settled = delivery.settled_at
        rows.add_row(
            str(number),
            f"{delivery.received_at:%Y-%m-%d %H:%M:%S} UTC",
            f"after {span((settled - delivery.received_at).total_seconds())}"
            if settled
            else "not yet",
            delivery.disposition or "",
            cut(delivery.owner),
        )
    console.print()
    console.print(rows)
