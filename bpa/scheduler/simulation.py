"""What another spec of a deployment would mean for the fleet as it is. Pure.

Nodes are judged by the planner's own constraints, each twice: as if nothing worked on it, which
says whether it qualifies, and as it stands, which says whether it could take a run now.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from bpa.domain.specs import DeploymentSpec
from bpa.scheduler.constraints import Candidate, emptied, refusal
from bpa.scheduler.fleet import Needs, Node, Snapshot, needs_of
from bpa.scheduler.rooms import fits


@dataclass(frozen=True, slots=True)
class Standing:
    """What a node would say to a deployment's runs."""

    refuses: str | None
    """Why none of them may go there, however empty the node is; None where it qualifies."""
    waits: str | None
    """Why none could go there now, though it qualifies; None where one could."""
    places: int
    """Runs that it could hold if nothing else worked there."""
    free: int
    """Runs that it could take now."""


@dataclass(frozen=True, slots=True)
class NodeEffect:
    """One node, before and after the edit."""

    node_id: str
    at_work: int
    """Runs of the deployment that it holds; those go on wherever they are."""
    before: Standing
    after: Standing


@dataclass(frozen=True, slots=True)
class Reach:
    """How much of the fleet a deployment could have."""

    limit: int
    """slotBudget x replicas."""
    places: int
    """Runs that the qualifying nodes could hold if nothing else worked there."""
    free: int
    """Runs that could start now, were they there."""

    @property
    def at_once(self) -> int:
        """Runs that could be at work at once, if nothing else were."""
        return min(self.limit, self.places)


@dataclass(frozen=True, slots=True)
class FleetEffect:
    """The fleet before and after the edit."""

    nodes: tuple[NodeEffect, ...]
    before: Reach
    after: Reach
    at_work: int
    """Runs of the deployment that hold a lease."""

    @property
    def over(self) -> int:
        """Runs at work beyond the new limit: they go on, and nothing starts before they end."""
        return max(0, self.at_work - self.after.limit)

    @property
    def stranded(self) -> int:
        """Runs at work on nodes that would not get them again."""
        return sum(one.at_work for one in self.nodes if one.after.refuses)


def simulate(
    snapshot: Snapshot,
    before: DeploymentSpec,
    after: DeploymentSpec,
    at_work: Mapping[str, int],
) -> FleetEffect:
    """Return what an edit would mean for the fleet.

    Args:
        snapshot: The fleet as it is; of its deployments nothing is read.
        before: The deployment as it is.
        after: As it would be.
        at_work: Its leases by node.
    """
    old, new = needs_of(before), needs_of(after)
    nodes = tuple(
        NodeEffect(
            node.node_id,
            at_work.get(node.node_id, 0),
            _standing(old, node, snapshot),
            _standing(new, node, snapshot),
        )
        for node in snapshot.nodes
    )
    held = sum(at_work.values())
    return FleetEffect(
        nodes,
        _reach(before.run_limit, [one.before for one in nodes], held),
        _reach(after.run_limit, [one.after for one in nodes], held),
        held,
    )


def _standing(needs: Needs, node: Node, snapshot: Snapshot) -> Standing:
    present = Candidate.of(node)
    empty = replace(emptied(present), has_loner=False)
    refused = refusal(needs, empty, snapshot)
    waits = None if refused else refusal(needs, present, snapshot)
    return Standing(
        refused.text if refused else None,
        waits.text if waits else None,
        fits(needs, empty, snapshot),
        fits(needs, present, snapshot),
    )


def _reach(limit: int, standings: list[Standing], held: int) -> Reach:
    free = min(sum(one.free for one in standings), max(0, limit - held))
    return Reach(limit, sum(one.places for one in standings), free)
