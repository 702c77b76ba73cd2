"""``bpa cordon`` and ``bpa uncordon``: whether a node gets new leases."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import click

from bpa.cli import completing
from bpa.cli.api import open_api
from bpa.cli.context import json_option, print_json, whoami
from bpa.control.rest.node_schemas import NodeCordoned, NodeUncordoned
from bpa.words import clock, segment

T = TypeVar("T")


@click.command("cordon")
@click.argument("node_id", metavar="NODE", shell_complete=completing.node_ids)
@json_option
@click.pass_context
def cordon(context: click.Context, *, node_id: str, as_json: bool) -> None:
    """Keep new leases from a node; what it runs it keeps, for as long as it takes.

    Once this returns, the node gets no new lease. It stays cordoned, restarts included, until
    `bpa uncordon NODE`. To have it empty as well, `bpa drain NODE`.

    Exits with 3 when there is no such node.

    \b
    Examples:
      bpa cordon node-1
      bpa nodes list
      bpa uncordon node-1
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    answer = asyncio.run(_post(context, node_id, "cordon", NodeCordoned))
    if as_json:
        print_json(answer)
        return
    left = len(answer.node.leases)
    click.echo(f"{node_id} is cordoned; {runs(left)} on it {'goes' if left == 1 else 'go'} on")
    if answer.taken_back:
        click.echo(taken_back(answer.taken_back), err=True)
    if answer.node.drain:
        click.echo(f"it drains as well, until {clock(answer.node.drain.deadline_at)}", err=True)


@click.command("uncordon")
@click.argument("node_id", metavar="NODE", shell_complete=completing.node_ids)
@json_option
@click.pass_context
def uncordon(context: click.Context, *, node_id: str, as_json: bool) -> None:
    """Give a node leases again, and call off its drain if one is under way or done.

    What it still runs stays on it; what it has handed back stays where it went.

    Exits with 3 when there is no such node.

    \b
    Examples:
      bpa uncordon node-1
      bpa uncordon node-1 --json
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    answer = asyncio.run(_post(context, node_id, "uncordon", NodeUncordoned))
    if as_json:
        print_json(answer)
        return
    click.echo(f"{node_id} gets leases again")
    if answer.called_off:
        left = len(answer.node.leases)
        until = clock(answer.called_off)
        click.echo(f"its drain (until {until}) is called off; {runs(left)} on it", err=True)


def runs(count: int) -> str:
    """Return a count of runs in words."""
    return f"{count} run" if count == 1 else f"{count} runs"


def taken_back(count: int) -> str:
    """Say what became of offers that the node had not acknowledged."""
    if count == 1:
        return "1 offer was taken back; its run waits for another node"
    return f"{count} offers were taken back; their runs wait for another node"


async def _post(context: click.Context, node_id: str, verb: str, kind: type[T]) -> T:
    async with open_api(context) as api:
        path = f"/v1/nodes/{segment(node_id)}:{verb}"
        return await api.post(path, {"requestedBy": whoami()}, kind)
