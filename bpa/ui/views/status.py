"""States as people see them: a word, an icon and a tone, and how far along the way a run is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bpa.control.drains import NodeState
from bpa.control.rest.concerns import SILENT_AFTER_S
from bpa.control.rest.node_schemas import Node
from bpa.control.rest.run_schemas import RunSummary, StageView
from bpa.domain.runs import RunStatus
from bpa.words import span

STAGES = ("receive", "plan", "lease", "think", "http.out", "complete")
"""The way of a run, as its trace names it."""


@dataclass(frozen=True, slots=True)
class Badge:
    """A state: never told by its colour alone."""

    text: str
    icon: str
    tone: str
    """``good``, ``work``, ``wait``, ``bad`` or ``calm``."""


@dataclass(frozen=True, slots=True)
class Bead:
    """One stage of a run's way."""

    name: str
    state: str
    """``done``, ``now``, ``failed`` or ``ahead``."""


_RUN = {
    RunStatus.QUEUED: Badge("queued", "wait", "wait"),
    RunStatus.OFFERED: Badge("offered", "offer", "work"),
    RunStatus.RUNNING: Badge("running", "work", "work"),
    RunStatus.COMPLETED: Badge("completed", "done", "good"),
    RunStatus.DEAD_LETTERED: Badge("dead-lettered", "dead", "bad"),
}
_AT = {RunStatus.QUEUED: 1, RunStatus.OFFERED: 2, RunStatus.RUNNING: 3}
_NODE = {
    NodeState.READY: Badge("ready", "done", "good"),
    NodeState.CORDONED: Badge("cordoned", "cordon", "wait"),
    NodeState.DRAINING: Badge("draining", "drain", "wait"),
    NodeState.DRAINED: Badge("drained", "cordon", "calm"),
    NodeState.CLOSING: Badge("closing", "drain", "wait"),
}


def of_run(run: RunSummary) -> Badge:
    """Return a run's state."""
    if run.cancelling:
        return Badge("cancelling", "dead", "wait")
    if run.parked is not None:
        return Badge("parked", "pause", "wait")
    return of_status(run.status)


def of_status(status: str) -> Badge:
    """Return a state by its name; one that a newer release writes is shown as it is."""
    try:
        return _RUN[RunStatus(status)]
    except ValueError:
        return Badge(status.replace("_", "-"), "wait", "calm")


def of_node(node: Node) -> Badge:
    """Return a node's state; silence outweighs what was decided about it."""
    if node.heartbeat_age_s > SILENT_AFTER_S:
        decided = "" if node.state is NodeState.READY else f", {node.state}"
        return Badge(f"silent{decided}", "silent", "bad")
    badge = _NODE[node.state]
    if node.state is NodeState.DRAINING and node.drain:
        left = f"{span(node.drain.left_s)} left" if node.drain.left_s else "deadline passed"
        return Badge(f"draining, {left}", badge.icon, badge.tone)
    return badge


def way_of(run: RunSummary) -> list[Bead]:
    """Return how far a run is, by what a list knows of it."""
    if run.status == RunStatus.COMPLETED:
        return [Bead(name, "done") for name in STAGES]
    if run.status == RunStatus.DEAD_LETTERED:
        at = 3 if run.executions else 0
        return _beads(at, "failed")
    return _beads(_AT.get(RunStatus(run.status), 1), "now")


def way_by(stages: Sequence[StageView], run: RunSummary) -> list[Bead]:
    """Return how far a run is, by its timeline."""
    if run.status != RunStatus.DEAD_LETTERED:
        return way_of(run)
    failed = [stage.name for stage in stages if stage.error and stage.name in STAGES]
    reached = [stage.name for stage in stages if stage.name in STAGES[:-1]]
    last = [name for name in failed if name != "complete"][-1:] or reached[-1:] or ["receive"]
    return _beads(STAGES.index(last[0]), "failed")


def _beads(at: int, state: str) -> list[Bead]:
    return [
        Bead(name, "done" if index < at else state if index == at else "ahead")
        for index, name in enumerate(STAGES)
    ]
