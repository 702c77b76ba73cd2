"""``bpa breakers``: the targets that fail, or have failed."""

from __future__ import annotations

import asyncio

import click
from rich.text import Text

from bpa.cli.api import open_api
from bpa.cli.context import json_option, print_json
from bpa.cli.tables import ago, cut, output, table
from bpa.control.rest.breaker_schemas import Breaker
from bpa.control.rest.schemas import Document

_STYLES = {"open": "red", "closing": "yellow", "closed": "green"}


class Breakers(Document, frozen=True):
    """What ``--json`` prints."""

    breakers: list[Breaker]


@click.command("breakers")
@json_option
@click.pass_context
def command(context: click.Context, *, as_json: bool) -> None:
    """List the circuit breakers of target hosts, those that are not closed first.

    A breaker opens when a target fails for several runs in a row: with 5xx, with 429, or with no
    answer. While it is open its runs are parked instead of dead-lettered: their slots are free,
    nothing is counted against them, and the queue keeps what has not been received yet. One run at
    a time probes the target; once it answers, two runs go at once, then four, until the breaker is
    closed. A target that never failed has none.

    \b
    Examples:
      bpa breakers
      bpa breakers --json | jq -r '.breakers[] | select(.state == "open") | .host'
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    breakers = asyncio.run(_breakers(context))
    if as_json:
        print_json(Breakers(breakers=breakers))
        return
    if not breakers:
        click.echo("no target has failed so far", err=True)
        return
    rows = table("host", "state", "since", "parked", "next", "last error",
                 right=("parked",), cut="last error")  # fmt: skip
    for one in breakers:
        rows.add_row(
            one.host,
            Text(one.state, style=_STYLES.get(one.state, "")),
            f"{ago(one.since)} ago" if one.since else "",
            str(one.parked_runs),
            _next(one),
            cut(one.last_error),
        )
    output().print(rows)


async def _breakers(context: click.Context) -> list[Breaker]:
    async with open_api(context) as api:
        return await api.get("/v1/breakers", list[Breaker])


def _next(breaker: Breaker) -> str:
    if breaker.probe_run_id:
        return "a probe is under way"
    if breaker.probe_at:
        return f"probe at {breaker.probe_at:%H:%M:%S} UTC"
    return f"{breaker.ramp} runs at once" if breaker.ramp else ""
