"""``bpa drain``: a node gets no new leases, and is empty by a deadline."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import datetime

import click
from rich.console import Group
from rich.live import Live
from rich.text import Text

from bpa.cli import completing
from bpa.cli.api import Api, open_api
from bpa.cli.context import json_option, print_json, whoami
from bpa.cli.cordon import runs, taken_back
from bpa.cli.nodes import leases_of, shown_state
from bpa.cli.tables import messages
from bpa.control.rest.node_schemas import DrainAsked, NodeDetail, NodeDrained, NodeLease
from bpa.control.rest.run_schemas import Run
from bpa.control.rest.schemas import Document
from bpa.domain.quantities import duration_s
from bpa.domain.runs import TERMINAL, RunStatus
from bpa.errors import Unavailable
from bpa.words import clock, segment, span

_LOOK_EVERY_S = 1.0
_CONTROL_AWAY_S = 60.0
"""How long control may be away before we give up watching; the drain goes on."""
_REMAINS = 7


class DrainReport(Document, frozen=True):
    """What a drain came to, as ``--json`` prints it."""

    drained: bool
    """Nothing is left on the node, and nothing new comes."""
    node: NodeDetail
    taken_back: int
    """Offers that the node had not acknowledged."""
    deadline_before: datetime | None
    """Of a drain that was under way already."""
    ended: list[str]
    """Runs that ended on the node while we watched."""
    handed_back: list[str]
    """Runs that left the node without an end; they go on elsewhere by their journals."""


@click.command("drain")
@click.argument("node_id", metavar="NODE", shell_complete=completing.node_ids)
@click.option(
    "--deadline",
    metavar="DURATION",
    help="What runs may end by itself for so long, such as 90s, 10m or 1h. Left out: 10m, or the "
    "present deadline of a drain that is under way.",
)
@click.option("--force", is_flag=True, help="Hand everything back now: a deadline of 0s.")
@click.option("--detach", is_flag=True, help="Return once the drain is on, without watching it.")
@json_option
@click.pass_context
def command(
    context: click.Context,
    *,
    node_id: str,
    deadline: str | None,
    force: bool,
    detach: bool,
    as_json: bool,
) -> None:
    """Empty a node: no new leases from now on, and a deadline for what it runs.

    Once the node is said to drain, it gets no new lease. What runs may end by itself until the
    deadline. What is left then is handed back: that costs a run no attempt, and another node goes
    on by its journal, so that no recorded model answer is paid for again. The node stays cordoned,
    restarts included, until `bpa uncordon NODE`, which also calls a drain off.

    Shows what remains and why, until nothing does. Ctrl-C stops the watching, not the drain; the
    same command again watches on, and with --deadline or --force moves the deadline.

    Exits with 0 when the node is drained, with 7 when something remains after the deadline or the
    drain was called off, with 3 when there is no such node, and with 130 after Ctrl-C.

    \b
    Examples:
      bpa drain node-1                  ten minutes, and watch
      bpa drain node-1 --deadline 1h    an hour, or an hour from now if it drains already
      bpa drain node-1 --force          hand everything back now
      bpa drain node-1 --detach --json  for scripts: `bpa nodes show node-1 --json` tells the rest
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    if force and deadline is not None:
        raise click.UsageError("--force is a deadline of 0s: give one of --force and --deadline")
    deadline_s = 0.0 if force else None if deadline is None else duration_s(deadline)
    try:
        report = asyncio.run(_drain(context, node_id, deadline_s, watch=not detach))
    except KeyboardInterrupt:
        click.echo(
            f"\n{node_id} drains on: `bpa drain {node_id}` watches it again, "
            f"`bpa uncordon {node_id}` calls it off",
            err=True,
        )
        raise
    if as_json:
        print_json(report)
    elif not detach:
        click.echo(_summary(report))
    if not detach and not report.drained:
        context.exit(_REMAINS)


async def _drain(
    context: click.Context, node_id: str, deadline_s: float | None, *, watch: bool
) -> DrainReport:
    async with open_api(context) as api:
        path = f"/v1/nodes/{segment(node_id)}"
        body = DrainAsked(deadline_s=deadline_s, requested_by=whoami())
        asked = await api.post(f"{path}:drain", body, NodeDrained)
        for line in _announced(asked):
            click.echo(line, err=True)
        watched = _Watched(asked.node)
        if watch:
            await _Watch(api, path, asked, watched).until_empty()
        return DrainReport(
            drained=watched.node.drain is not None and not watched.node.leases,
            node=watched.node,
            taken_back=asked.taken_back,
            deadline_before=asked.deadline_before,
            ended=watched.ended,
            handed_back=watched.handed_back,
        )


def _announced(asked: NodeDrained) -> list[str]:
    """Return what is to be said once the drain is on."""
    node, drain = asked.node, asked.node.drain
    assert drain is not None, "control has just been asked for it"
    lines = [f"{node.node_id} gets no new leases"]
    if asked.deadline_before is not None:
        lines = [_moved(node.node_id, asked.deadline_before, drain.deadline_at)]
    if asked.taken_back:
        lines.append(taken_back(asked.taken_back))
    if node.leases and drain.left_s:
        until = f"until {clock(drain.deadline_at)} ({span(drain.left_s)})"
        lines.append(f"{runs(len(node.leases))} may go on {until}; the rest is handed back then")
    elif node.leases:
        lines.append(f"{runs(len(node.leases))} to be handed back with the next heartbeat")
    return lines


def _moved(node_id: str, before: datetime, now: datetime) -> str:
    if before == now:
        return f"{node_id} drains already, until {clock(now)}"
    by_s = (now - before).total_seconds()
    way = f"{span(abs(by_s))} {'later' if by_s > 0 else 'sooner'}"
    return f"{node_id} drains already; its deadline moves to {clock(now)}, {way}"


@dataclass(slots=True)
class _Watched:
    """What was seen of a drain so far."""

    node: NodeDetail
    ended: list[str] = field(default_factory=list)
    handed_back: list[str] = field(default_factory=list)


class _Watch:
    """Looks at a draining node again and again, and shows it on standard error.

    Args:
        api: Control.
        path: The node's.
        asked: What control answered to the drain.
        watched: What is seen goes here, so that it is known however the watch ends.
    """

    def __init__(self, api: Api, path: str, asked: NodeDrained, watched: _Watched) -> None:
        drain = asked.node.drain
        self._api = api
        self._path = path
        self._watched = watched
        self._grace_s = asked.empty_within_s - (drain.left_s if drain else 0.0)
        self._passed_at_s: float | None = None
        self._away_since_s: float | None = None
        self._told: frozenset[str] = frozenset()

    async def until_empty(self) -> None:
        """Return when nothing is left, the drain was called off, or nothing helps any more."""
        console = messages()
        with Live(console=console, transient=True, auto_refresh=False) as live:
            while True:
                node = self._watched.node
                if not node.leases or node.drain is None or self._is_late(node):
                    return
                if console.is_terminal:
                    live.update(_view(node, console.width), refresh=True)
                else:
                    self._tell(node)
                await asyncio.sleep(_LOOK_EVERY_S)
                await self._look()

    async def _look(self) -> None:
        before = self._watched.node
        try:
            node = await self._api.get(self._path, NodeDetail)
            left = {(lease.run_id, lease.epoch) for lease in node.leases}
            for lease in before.leases:
                if (lease.run_id, lease.epoch) not in left:
                    await self._note(lease, before.node_id)
        except Unavailable as error:
            now_s = time.monotonic()
            if self._away_since_s is None:
                self._away_since_s = now_s
                click.echo(f"{error}; the drain goes on, and so do we", err=True)
            if now_s - self._away_since_s > _CONTROL_AWAY_S:
                raise
            return
        self._away_since_s = None
        self._watched.node = node

    async def _note(self, lease: NodeLease, node_id: str) -> None:
        """Find out how a run left its node."""
        if lease.run_id in (*self._watched.ended, *self._watched.handed_back):
            return
        run = await self._api.get(f"/v1/runs/{segment(lease.run_id)}", Run)
        ended = RunStatus(run.status) in TERMINAL and run.node_id == node_id
        (self._watched.ended if ended else self._watched.handed_back).append(lease.run_id)

    def _is_late(self, node: NodeDetail) -> bool:
        """Say if the deadline has passed for longer than anything can stay."""
        if node.drain is None or node.drain.left_s > 0:
            self._passed_at_s = None
            return False
        self._passed_at_s = self._passed_at_s or time.monotonic()
        return time.monotonic() - self._passed_at_s > self._grace_s

    def _tell(self, node: NodeDetail) -> None:
        """Write a line when what remains has changed: nobody watches this as it goes."""
        left = frozenset(lease.run_id for lease in node.leases)
        if left != self._told:
            click.echo(f"{_headline(node)}: {', '.join(sorted(left)[:8])}", err=True)
        self._told = left


def _view(node: NodeDetail, width: int) -> Group:
    return Group(Text(_headline(node)), leases_of(node, width))


def _headline(node: NodeDetail) -> str:
    verb = "remains" if len(node.leases) == 1 else "remain"
    return f"{node.node_id} is {shown_state(node)}; {runs(len(node.leases))} {verb}"


def _summary(report: DrainReport) -> str:
    node = report.node
    if report.drained:
        parts = [
            f"{runs(len(names))} {what}"
            for names, what in ((report.ended, "ended"), (report.handed_back, "handed back"))
            if names
        ]
        seen = f" ({', '.join(parts)})" if parts else ""
        stays = f"it stays cordoned until `bpa uncordon {node.node_id}`"
        return f"{node.node_id} is drained{seen}; {stays}"
    if node.drain is None:
        return f"the drain of {node.node_id} was called off; {runs(len(node.leases))} on it"
    names = ", ".join(lease.run_id for lease in node.leases)
    return f"{node.node_id} is past its deadline; {runs(len(node.leases))} on it still: {names}"
