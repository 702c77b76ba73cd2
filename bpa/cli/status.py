"""``bpa status``: what needs somebody, where runs are, and how the last hour went."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import click
from rich.padding import Padding
from rich.text import Text

from bpa.cli.api import open_api
from bpa.cli.context import json_option, print_json
from bpa.cli.tables import output
from bpa.control.rest.trend_schemas import Concern, Kind, Period, Status
from bpa.words import span, usd

_STYLES = {Kind.DEAD_LETTERS: "red", Kind.NODE_SILENT: "red"}


@click.command("status")
@json_option
@click.pass_context
def command(context: click.Context, *, as_json: bool) -> None:
    """Show what needs somebody, where runs are, and how the last hour went.

    Dead letters, targets that do not answer, silent nodes, queues that cannot be read and runs that
    wait for over a minute need somebody, the most urgent first, each with the command that shows
    more. The page Overview says the same.

    Exits with 0 whatever needs attention, with 6 when control does not answer.

    \b
    Examples:
      bpa status
      bpa status --json | jq -e '.concerns == []'
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    status = asyncio.run(_status(context))
    if as_json:
        print_json(status)
        return
    console = output()
    for concern in status.concerns:
        for line in told(concern):
            console.print(line)
    if not status.concerns:
        console.print(Text("nothing needs attention", style="green"))
    for words in (now_of(status), hour_of(status.last_hour)):
        console.print(Text(words))


def told(concern: Concern) -> Iterator[Text | Padding]:
    """Return the lines that tell of a concern."""
    yield Text(concern.title, style=_STYLES.get(concern.kind, "yellow"))
    yield Padding(Text(f"{concern.detail}\n{concern.command}"), (0, 0, 0, 2))


def now_of(status: Status) -> str:
    """Say where runs are."""
    by = dict.fromkeys(("queued", "offered", "running"), 0)
    for row in status.alive:
        by[row.status] = by.get(row.status, 0) + row.runs
    places = ", ".join(f"{runs:,} {name}" for name, runs in by.items())
    return f"now: {status.unreceived:,} in queues, {places}"


def hour_of(period: Period) -> str:
    """Say how the last hour went."""
    ended = period.completed + period.dead_lettered
    if not ended:
        return "last hour: nothing ended"
    p50, p95 = (span((ms or 0) / 1000) for ms in (period.latency_p50_ms, period.latency_p95_ms))
    return (
        f"last hour: {period.completed:,} completed, {period.dead_lettered:,} dead-lettered, "
        f"p50 {p50}, p95 {p95}, {usd(period.cost_usd)} USD"
    )


async def _status(context: click.Context) -> Status:
    async with open_api(context) as api:
        return await api.get("/v1/status", Status)
