"""How many more messages of each deployment the fleet has room for. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from bpa.domain.runs import DeploymentId
from bpa.scheduler.breakers import BreakerState
from bpa.scheduler.constraints import Candidate, candidates, refusal
from bpa.scheduler.fleet import Deployment, Needs, Snapshot
from bpa.scheduler.planner import Proposal

_AHEAD_SHARE = 4
_AHEAD_MOST = 16


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


def rooms(snapshot: Snapshot, granted: Iterable[Proposal] = ()) -> dict[DeploymentId, Room]:
    """Return the room of each active deployment, once ``granted`` have got their leases.

    That is its free eligible slots within its limit, or the few that may wait ahead if those are
    more, less the runs that wait already; never below 0.
    """
    nodes = {one.node.node_id: one for one in candidates(snapshot)}
    placed: Counter[DeploymentId] = Counter()
    for proposal in granted:
        nodes[proposal.node.node_id].take(proposal.deployment.needs_of(proposal.run))
        placed[proposal.deployment.dep_id] += 1
    free: dict[Needs, int] = {}
    found: dict[DeploymentId, Room] = {}
    for deployment in snapshot.deployments.values():
        if not deployment.active:
            continue
        needs = deployment.needs
        if needs not in free:
            free[needs] = sum(fits(needs, c, snapshot) for c in nodes.values())
        runs = _room(deployment, placed[deployment.dep_id], free[needs])
        found[deployment.dep_id] = Room(runs, snapshot.now)
    return found


def _room(deployment: Deployment, placed: int, free: int) -> int:
    startable = min(free, deployment.run_limit - deployment.leased - placed)
    ahead = _ahead(deployment.leased + placed)
    gate = deployment.gate
    if gate is not None and gate.state is BreakerState.OPEN:
        return 0 if gate.untried else 1  # the queue holds the backlog of an outage
    if gate is not None:
        startable = min(startable, gate.room - placed)
    return max(max(startable, ahead) - (deployment.waiting - placed), 0)


def _ahead(running: int) -> int:
    """Return how many runs may wait although nothing is free.

    At least one, which can say why it waits. Beyond that a quarter of those that run, up to 16, so
    that a slot that falls free finds a run at hand and need not wait for a receive.
    """
    return min(max(running // _AHEAD_SHARE, 1), _AHEAD_MOST)


def fits(needs: Needs, candidate: Candidate, snapshot: Snapshot) -> int:
    """Count the runs with these needs that the node could take now."""
    if refusal(needs, candidate, snapshot) is not None:
        return 0
    node = candidate.node
    count = node.slots - candidate.used_slots
    if node.cpu_millis and needs.cpu_millis:
        count = min(count, (node.cpu_millis - candidate.used_cpu_millis) // needs.cpu_millis)
    if node.memory_bytes and needs.memory_bytes:
        spare = node.memory_bytes - candidate.used_memory_bytes
        count = min(count, spare // needs.memory_bytes)
    return count
