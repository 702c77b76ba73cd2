"""``bpa nodes``: the fleet as control sees it."""

from __future__ import annotations

import asyncio

import click
from rich.text import Text

from bpa.cli.api import open_api, segment
from bpa.cli.context import json_option, print_json
from bpa.cli.tables import ago, cut, facts, output, span, table
from bpa.control.rest.node_schemas import Node

_SILENT_AFTER_S = 15.0
"""Without a heartbeat for so long, a node is shown as silent; five of the default beats."""


@click.group("nodes")
def command() -> None:
    """Look at the nodes that execute runs."""


@command.command("list", short_help="List the nodes of the fleet.")
@json_option
@click.pass_context
def list_nodes(context: click.Context, *, as_json: bool) -> None:
    """List the nodes of the fleet: their state, slots, labels and last heartbeat."""
    nodes = asyncio.run(_nodes(context))
    if as_json:
        print_json({"nodes": nodes})
        return
    if not nodes:
        click.echo("no node has registered", err=True)
        return
    rows = table("node", "state", "slots", "heartbeat", "labels", right=("slots",), cut="labels")
    for node in nodes:
        rows.add_row(
            node.node_id,
            _state(node),
            f"{node.slots_used}/{node.slots}",
            f"{span(node.heartbeat_age_s)} ago",
            cut(_labels(node)),
        )
    output().print(rows)


@command.command("show")
@click.argument("node_id", metavar="NODE")
@json_option
@click.pass_context
def show_node(context: click.Context, *, node_id: str, as_json: bool) -> None:
    """Show one node.

    Exits with 3 when there is no such node.
    """
    node = asyncio.run(_node(context, node_id))
    if as_json:
        print_json(node)
        return
    rows: list[tuple[str, object]] = [
        ("node", node.node_id),
        ("state", _state(node)),
        ("slots", f"{node.slots_used} of {node.slots} in use"),
        ("labels", _labels(node)),
        ("heartbeat", f"{span(node.heartbeat_age_s)} ago"),
        ("registered", f"{ago(node.registered_at)} ago, as boot {node.boot_id}"),
        ("version", node.version),
    ]
    output().print(facts(rows))


async def _nodes(context: click.Context) -> list[Node]:
    async with open_api(context) as api:
        return await api.get("/v1/nodes", list[Node])


async def _node(context: click.Context, node_id: str) -> Node:
    async with open_api(context) as api:
        return await api.get(f"/v1/nodes/{segment(node_id)}", Node)


def _state(node: Node) -> Text:
    if node.heartbeat_age_s > _SILENT_AFTER_S:
        return Text("silent", style="red")
    return Text("draining", style="yellow") if node.draining else Text("ready", style="green")


def _labels(node: Node) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(node.labels.items()))
