"""How many more messages of each deployment the fleet has room for. Pure.

Placing a run takes one from the free slots and one from those that wait, so the room is the same
before a plan and after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from bpa.domain import DeploymentId
from bpa.scheduler.constraints import Candidate, refusal
from bpa.scheduler.fleet import Deployment, Needs, Node, Snapshot


@dataclass(frozen=True, slots=True)
class Room:
    """How many more runs may be received, as of one snapshot."""

    runs: int
    as_of: datetime
    """Postgres's clock: of two rooms the later one knows more."""


def room(snapshot: Snapshot, dep_id: DeploymentId) -> int:
    """Return how many more runs of one deployment may be received; 0 if it is unknown."""
    found = rooms(snapshot).get(dep_id)
    return found.runs if found else 0


def rooms(snapshot: Snapshot) -> dict[DeploymentId, Room]:
    """Return the room of each active deployment.

    That is its free eligible slots within its limit, one at the least (so that a run can say why
    it waits), less the runs that wait already; never below 0.
    """
    free: dict[Needs, int] = {}
    found: dict[DeploymentId, Room] = {}
    for deployment in snapshot.deployments.values():
        if not deployment.active:
            continue
        needs = deployment.needs
        if needs not in free:
            free[needs] = sum(_fits(needs, node, snapshot) for node in snapshot.nodes)
        found[deployment.dep_id] = Room(_room(deployment, free[needs]), snapshot.now)
    return found


def _room(deployment: Deployment, free: int) -> int:
    startable = min(free, deployment.run_limit - deployment.leased)
    return max(max(startable, 1) - deployment.waiting, 0)


def _fits(needs: Needs, node: Node, snapshot: Snapshot) -> int:
    """Count the runs with these needs that the node could take now."""
    if refusal(needs, Candidate.of(node), snapshot) is not None:
        return 0
    count = node.slots - node.used_slots
    if node.cpu_millis and needs.cpu_millis:
        count = min(count, (node.cpu_millis - node.used_cpu_millis) // needs.cpu_millis)
    if node.memory_bytes and needs.memory_bytes:
        count = min(count, (node.memory_bytes - node.used_memory_bytes) // needs.memory_bytes)
    return count
