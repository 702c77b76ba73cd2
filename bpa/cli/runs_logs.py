"""``bpa runs logs``: what happened to a run, line by line."""

from __future__ import annotations

import asyncio

import click

from bpa.cli import completing
from bpa.cli.api import open_api
from bpa.cli.context import json_option, print_json
from bpa.cli.tables import cut, output
from bpa.control.rest.run_events import RunEvent
from bpa.control.rest.run_schemas import Run
from bpa.domain.runs import TERMINAL
from bpa.words import segment, span

_LOOK_EVERY_S = 1.0


@click.command("logs", short_help="Print what happened to a run, line by line.")
@click.argument("run_id", metavar="RUN", shell_complete=completing.run_ids)
@click.option("--follow", "-f", is_flag=True, help="Go on until the run has ended.")
@json_option
@click.pass_context
def logs(context: click.Context, *, run_id: str, follow: bool, as_json: bool) -> None:
    """Print what happened to a run: each stage and step once it is over, and who did what to it.

    These are the events that control keeps in Postgres for as long as the run is there. Log lines
    of the processes are not kept here: each writes its own to standard error, as one JSON document
    a line where that is no terminal, and over OTLP if telemetry.otlp_endpoint is set. Those of a
    run carry its run_id and trace_id. With --json this prints a line for each event.

    Exits with 3 when there is no such run.

    \b
    Examples:
      bpa runs logs 019f1c3e-6a52-8d0f-b0a4-6d1f1d9a2c11 --follow
      grep 019f1c3e-6a52-8d0f-b0a4-6d1f1d9a2c11 node.log    the processes' own lines
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    asyncio.run(_follow(context, run_id, follow=follow, as_json=as_json))


async def _follow(context: click.Context, run_id: str, *, follow: bool, as_json: bool) -> None:
    told: set[str] = set()
    path = f"/v1/runs/{segment(run_id)}"
    async with open_api(context) as api:
        while True:
            run = await api.get(path, Run)  # first: what follows its end is told once more
            for event in await api.get(f"{path}/logs", list[RunEvent]):
                if event.id not in told:
                    told.add(event.id)
                    _tell(event, as_json=as_json)
            if run.status in TERMINAL or not follow:
                break
            await asyncio.sleep(_LOOK_EVERY_S)
    if not told:
        click.echo("nothing has happened yet; --follow waits for it", err=True)


def _tell(event: RunEvent, *, as_json: bool) -> None:
    if as_json:
        print_json(event)
        return
    who = event.actor or event.node_id or "control"
    attempt = f"attempt {event.attempt}" if event.attempt > 1 else ""
    took = span(event.took_s) if event.took_s is not None else ""
    parts = [f"{event.timestamp:%H:%M:%S.%f}"[:-3], f"{event.event:<30}", who, took, attempt]
    line = cut("  ".join(part for part in parts if part))
    if event.error:
        line.append(f"  {event.error}", style="red")
    if event.detail:
        line.append(f"  {event.detail}")
    output().print(line)
