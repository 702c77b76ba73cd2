"""The overview: what needs somebody, how the last hour went, where runs are at this moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bpa.control.drains import NodeState
from bpa.control.rest import trend_schemas as rest
from bpa.control.rest.breaker_schemas import Breaker
from bpa.control.rest.concerns import concerns_of
from bpa.control.rest.node_schemas import Node
from bpa.control.rest.queue_schemas import Queue
from bpa.control.rest.trend_schemas import Kind, lag_of
from bpa.control.trends import Trend
from bpa.ui.views import charts
from bpa.ui.views.last_hour import last_hour
from bpa.ui.words import count
from bpa.words import segment

_QUEUE = "invoices"
"""Where `bpa send` sends to unless it is told."""
_QUEUED = "/ui/runs?q=status%3Aqueued"


@dataclass(frozen=True, slots=True)
class Concern:
    """Something that needs somebody."""

    tone: str
    icon: str
    title: str
    detail: str
    path: str
    action: str
    command: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where on their way runs are, and how many."""

    name: str
    label: str
    runs: str
    is_busy: bool
    path: str


@dataclass(frozen=True, slots=True)
class FirstStep:
    """Something that a first result needs."""

    text: str
    is_done: bool
    command: str
    """What does it."""


@dataclass(frozen=True, slots=True)
class Overview:
    """The whole page."""

    concerns: Sequence[Concern]
    places: Sequence[Place]
    charts: Sequence[charts.Chart]
    queues: Sequence[Queue]
    waits: Sequence[Mapping[str, Any]]
    first_steps: Sequence[FirstStep]
    """What is there and what is missing before a first result; empty once anything has come."""
    died: int
    """Runs that were dead-lettered in the last hour; the queues may not have been read since."""

    @property
    def well(self) -> str:
        """What is said where nothing asks for attention, and not more than is known."""
        if not self.died:
            return "All is well: no dead letters, every node is heard of, every target answers."
        noun = "run was" if self.died == 1 else "runs were"
        return (
            f"{count(self.died)} {noun} dead-lettered in the last hour; none was left when the "
            "queues were last read. Every node is heard of, every target answers."
        )

    @property
    def said(self) -> str:
        """What changed, in a sentence for who listens to the page."""
        if not self.concerns:
            return self.well
        things = "thing needs" if len(self.concerns) == 1 else "things need"
        return f"{len(self.concerns)} {things} attention: {self.concerns[0].title}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What services tell."""

    queues: Sequence[Queue]
    breakers: Sequence[Breaker]
    nodes: Sequence[Node]
    alive: Sequence[Mapping[str, Any]]
    trend: Trend


def overview(known: Known, now: datetime) -> Overview:
    """Return what the page shows."""
    overall = known.trend.overall
    return Overview(
        concerns=[
            _shown(one)
            for one in concerns_of(known.queues, known.breakers, known.nodes, known.alive, now)
        ],
        places=_places(known),
        charts=last_hour(known.trend, known.queues, known.alive, now),
        queues=known.queues,
        waits=[row for row in known.alive if row["waits_for"]],
        died=overall["dead_lettered"],
        first_steps=_first_steps(known),
    )


def _first_steps(known: Known) -> Sequence[FirstStep]:
    overall = known.trend.overall
    ended = overall["completed"] + overall["dead_lettered"]
    if known.alive or ended or sum(queue.active or 0 for queue in known.queues):
        return ()
    nodes = [node.node_id for node in known.nodes if node.state is NodeState.READY]
    queues = [queue.queue for queue in known.queues]
    ready = f"{nodes[0]} is ready" if len(nodes) == 1 else f"{count(len(nodes))} nodes are ready"
    feeds = f"A deployment feeds from {', '.join(queues)}"
    queue = "" if not queues or _QUEUE in queues else f"--queue {queues[0]} "
    return (
        FirstStep(
            feeds if queues else "Deploy an agent", bool(queues),
            "bpa apply config/agents config/deployments",
        ),
        FirstStep(
            ready if nodes else "Start a node", bool(nodes),
            "bpa --set node.control=HOST:8081 serve --role node",
        ),
        FirstStep(
            "Send messages and watch them become results here", False,
            f"bpa send {queue}demo/invoices/*",
        ),
    )  # fmt: skip


def _shown(concern: rest.Concern) -> Concern:
    subject = segment(concern.subject)
    look = {
        Kind.DEAD_LETTERS: ("bad", "dead", f"/ui/dead-letters?queue={subject}", "Look into them"),
        Kind.TARGET_AWAY: ("wait", "pause", _QUEUED, "See what waits"),
        Kind.NODE_SILENT: ("bad", "silent", f"/ui/fleet/{subject}", "Look at the node"),
        Kind.QUEUE_UNREAD: ("wait", "silent", "/ui/deployments", "Look at what feeds from it"),
        Kind.RUNS_WAIT: ("wait", "wait", _QUEUED, "See what waits"),
    }
    tone, icon, path, action = look[concern.kind]
    return Concern(tone, icon, concern.title, concern.detail, path, action, concern.command)


def _places(known: Known) -> list[Place]:
    by = {"queued": 0, "offered": 0, "running": 0}
    for row in known.alive:
        by[row["status"]] += row["runs"]
    unreceived = lag_of(known.queues, known.alive).unreceived
    done = known.trend.overall
    at = "/ui/runs?q=status%3A"
    return [
        _place("receive", "in the queue", unreceived, "/ui/deployments"),
        _place("plan", "waiting for a slot", by["queued"], f"{at}queued"),
        _place("lease", "offered", by["offered"], f"{at}offered"),
        _place("think", "at work", by["running"], f"{at}running"),
        _place("complete", "done in the last hour", done["completed"], f"{at}completed"),
        _place("dead", "dead-lettered in the last hour", done["dead_lettered"],
               f"{at}dead-lettered"),
    ]  # fmt: skip


def _place(name: str, label: str, runs: int, path: str) -> Place:
    return Place(name, label, count(runs), runs > 0, path)
