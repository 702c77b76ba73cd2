"""``bpa nodes``: the fleet as control sees it."""

from __future__ import annotations

import asyncio

import click
from rich.table import Table
from rich.text import Text

from bpa.cli import completing
from bpa.cli.api import open_api
from bpa.cli.context import json_option, print_json, whoami
from bpa.cli.tables import ago, cut, facts, output, table
from bpa.control.drains import STAGE_WORDS, NodeState
from bpa.control.rest.node_schemas import Drain, Node, NodeDetail, NodeLease, Sandbox
from bpa.control.rest.schemas import Document
from bpa.domain.sandboxes import LEVEL_WORDS, in_force, not_in_force
from bpa.words import clock, segment, span

_SILENT_AFTER_S = 10.0
"""Without a heartbeat for so long, a node is shown as silent; two of the default beats."""


_ROOMY_CHARS = 120
"""A terminal of so many columns shows the deployments of runs as well."""


class Nodes(Document, frozen=True):
    """What ``nodes list --json`` prints."""

    nodes: list[Node]


class NodeForgotten(Document, frozen=True):
    """What ``nodes forget --json`` prints."""

    node_id: str
    forgotten: bool


@click.group("nodes")
def command() -> None:
    """Look at the nodes that execute runs; `bpa drain` and `bpa cordon` take them out of use.

    A node that has ended stays listed as silent until it starts again, or `bpa nodes forget NODE`.
    """


@command.command("list", short_help="List the nodes of the fleet.")
@json_option
@click.pass_context
def list_nodes(context: click.Context, *, as_json: bool) -> None:
    """List the nodes of the fleet: their state, slots, labels and last heartbeat.

    ready nodes get leases. cordoned ones keep what they run; draining ones are to be empty by a
    deadline, drained ones are; both stay so until `bpa uncordon NODE`. closing ones are about to
    stop by themselves; gone ones have done so; silent ones have not been heard of, for as long as
    heartbeat says. `bpa nodes forget NODE` takes one that does not come back off the list.

    sandbox is what confines a run there: user is a process that opens and starts nothing, under a
    user of its own; process is the same under the node's user; partial lacks something, see
    `bpa nodes show NODE`; - stands for a node of a release that does not say.

    \b
    Examples:
      bpa nodes list
      bpa nodes list --json | jq -r '.nodes[] | select(.heartbeatAgeS > 60) | .nodeId'
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    nodes = asyncio.run(_nodes(context))
    if as_json:
        print_json(Nodes(nodes=nodes))
        return
    if not nodes:
        click.echo("no node has registered", err=True)
        return
    columns = ("node", "state", "slots", "heartbeat", "sandbox", "labels")
    rows = table(*columns, right=("slots",), cut="labels")
    for node in nodes:
        rows.add_row(
            node.node_id,
            _styled(node),
            f"{node.slots_used}/{node.slots}",
            f"{span(node.heartbeat_age_s)} ago",
            str(node.sandbox.level) if node.sandbox else "-",
            cut(_labels(node)),
        )
    output().print(rows)


@command.command("show", short_help="Show one node and what it runs.")
@click.argument("node_id", metavar="NODE", shell_complete=completing.node_ids)
@json_option
@click.pass_context
def show_node(context: click.Context, *, node_id: str, as_json: bool) -> None:
    """Show one node: its state, and how far each of its runs has come.

    Exits with 3 when there is no such node.

    \b
    Examples:
      bpa nodes show node-1
      bpa nodes show node-1 --json | jq '.leases | length'
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    node = asyncio.run(_node(context, node_id))
    if as_json:
        print_json(node)
        return
    rows: list[tuple[str, object]] = [
        ("node", node.node_id),
        ("state", _styled(node)),
        ("cordoned", _cordoned(node)),
        ("drain", _drain(node)),
        ("slots", f"{node.slots_used} of {node.slots} in use"),
        ("labels", _labels(node)),
        ("heartbeat", f"{span(node.heartbeat_age_s)} ago, at {clock(node.heartbeat_at)}"),
        ("registered", f"{ago(node.registered_at)} ago, as boot {node.boot_id}"),
        ("version", node.version),
        *_sandbox(node.sandbox),
    ]
    console = output()
    console.print(facts(rows))
    if node.leases:
        console.print()
        console.print(leases_of(node, console.width))


@command.command("forget", short_help="Take a node that has ended off the list.")
@click.argument("node_id", metavar="NODE", shell_complete=completing.node_ids)
@json_option
@click.pass_context
def forget_node(context: click.Context, *, node_id: str, as_json: bool) -> None:
    """Take a node that has ended out of the fleet, with its cordon if it has one.

    What it ran stays with the runs. Should a node of that id start again, it is a new one.

    Exits with 3 when there is no such node, and with 5 when it is alive or holds leases still.

    \b
    Examples:
      bpa nodes forget node-1
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    asyncio.run(_forget(context, node_id))
    if as_json:
        print_json(NodeForgotten(node_id=node_id, forgotten=True))
    else:
        click.echo(f"{node_id} is forgotten")


def leases_of(node: NodeDetail, width: int) -> Table:
    """Return what a node holds, and what each run waits for, in so many characters."""
    named = ("deployment",) if width >= _ROOMY_CHARS else ()
    rows = table("run", *named, "stage", "for", "at the latest", cut="at the latest")
    for lease in node.leases:
        since = lease.acknowledged_at or lease.granted_at
        rows.add_row(
            lease.run_id,
            *([lease.deployment_id] if named else []),
            STAGE_WORDS[lease.stage],
            ago(since),
            cut(_latest(lease, node.drain)),
        )
    return rows


def shown_state(node: Node) -> str:
    """Return a node's state in words, with a drain's deadline and a lost heartbeat."""
    words = [] if node.state is NodeState.READY else [str(node.state)]
    if node.state is NodeState.DRAINING and node.drain:
        left_s = node.drain.left_s
        words = [f"draining (deadline {f'in {span(left_s)}' if left_s else 'passed'})"]
    if node.heartbeat_age_s > _SILENT_AFTER_S:
        is_gone = node.state is NodeState.CLOSING and not node.slots_used
        words = ["gone"] if is_gone else [*words, "silent"]
    return ", ".join(words) or "ready"


async def _nodes(context: click.Context) -> list[Node]:
    async with open_api(context) as api:
        return await api.get("/v1/nodes", list[Node])


async def _node(context: click.Context, node_id: str) -> NodeDetail:
    async with open_api(context) as api:
        return await api.get(f"/v1/nodes/{segment(node_id)}", NodeDetail)


async def _forget(context: click.Context, node_id: str) -> None:
    async with open_api(context) as api:
        await api.delete(f"/v1/nodes/{segment(node_id)}", requestedBy=whoami())


def _styled(node: Node) -> Text:
    silent = node.heartbeat_age_s > _SILENT_AFTER_S
    style = "red" if silent else "green" if node.state is NodeState.READY else "yellow"
    return Text(shown_state(node), style=style)


def _drain(node: Node) -> str:
    if node.drain is None:
        return ""
    by = f", by {node.drain.requested_by}" if node.drain.requested_by else ""
    return f"since {clock(node.drain.started_at)}, deadline {clock(node.drain.deadline_at)}{by}"


def _cordoned(node: Node) -> str:
    if node.cordoned_at is None:
        return ""
    return f"{ago(node.cordoned_at)} ago" + (f", by {node.cordoned_by}" if node.cordoned_by else "")


def _sandbox(sandbox: Sandbox | None) -> list[tuple[str, object]]:
    if sandbox is None:
        return [("sandbox", "not said: the node is of an earlier release")]
    return [
        ("sandbox", LEVEL_WORDS[sandbox.level]),
        ("in force", "; ".join(in_force(sandbox.protections))),
        ("missing", "; ".join(not_in_force(sandbox.missing))),
    ]


def _latest(lease: NodeLease, drain: Drain | None) -> str:
    """Say what ends a run's stay, whatever it does: its own deadline or the drain's."""
    if lease.left_s is not None and (drain is None or lease.left_s < drain.left_s):
        return f"ends in {span(lease.left_s)}"
    if drain is None:
        return "lapses"
    return f"handed back in {span(drain.left_s)}" if drain.left_s else "handed back now"


def _labels(node: Node) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(node.labels.items()))
