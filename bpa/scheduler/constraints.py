"""What keeps a run off a node: hard constraints, each with the reason it gives. Pure.

A constraint looks at what a run needs and at a node as it stands while a plan grows, and returns
None or one short sentence about the node. Sentences are steady: they hold no ages and no counters
that move while a run waits, so that a reason is written once and not with every pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, timedelta
from enum import StrEnum
from typing import NamedTuple

from bpa.scheduler.fleet import Deployment, Needs, Node, Snapshot


class Why(StrEnum):
    """What a run waits for, as a closed set: the label of a metric, the group of a summary."""

    SILENT = "silent"
    DRAINING = "draining"
    CORDONED = "cordoned"
    LABELS = "labels"
    SLOTS = "slots"
    RESOURCES = "resources"
    ALONE = "alone"
    """A run that has to be alone on its node: this one, or the one that is there."""
    NODES = "nodes"
    """Several of the above, each by another node."""
    NO_NODES = "no_nodes"
    SLOT_BUDGET = "slot_budget"
    PAUSED = "paused"
    TARGET = "target"
    """Its target fails, or answers again only just now."""
    OVERTAKEN = "overtaken"
    """Its proposals were refused by commit again and again; the next pass tries on."""
    HOLDS = "holds"
    """The store of slot holds does not answer."""


class Refusal(NamedTuple):
    """Why one node, or one limit, refuses a run."""

    why: Why
    text: str


@dataclass(slots=True)
class Candidate:
    """A node while a plan grows: what it has given away already, proposals included."""

    node: Node
    used_slots: int
    used_cpu_millis: int
    used_memory_bytes: int
    has_loner: bool
    is_kept: bool = False
    """Nothing is added, so that it becomes empty for a run that has to be alone."""

    @classmethod
    def of(cls, node: Node) -> Candidate:
        """Start from what the node's leases hold."""
        return cls(
            node, node.used_slots, node.used_cpu_millis, node.used_memory_bytes, node.has_loner
        )

    def take(self, needs: Needs) -> None:
        """Count one more run."""
        self.used_slots += 1
        self.used_cpu_millis += needs.cpu_millis
        self.used_memory_bytes += needs.memory_bytes
        self.has_loner = self.has_loner or needs.alone

    @property
    def load_with_one_more(self) -> float:
        """The fraction of slots in use once one more run is placed; a kept node goes first."""
        if self.is_kept:
            return -1.0
        return (self.used_slots + 1) / self.node.slots


Constraint = Callable[[Needs, Candidate, Snapshot], str | None]


def silent(needs: Needs, candidate: Candidate, snapshot: Snapshot) -> str | None:
    """Refuse a node that has not been heard of for too long, or whose connection broke."""
    if candidate.node.disconnected:
        return "its connection broke"
    heard_at = candidate.node.heartbeat_at
    if snapshot.now - heard_at <= timedelta(seconds=snapshot.silent_after_s):
        return None
    return f"no heartbeat since {heard_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def draining(needs: Needs, candidate: Candidate, snapshot: Snapshot) -> str | None:
    """Refuse a node that drains."""
    return "draining" if candidate.node.draining else None


def cordoned(needs: Needs, candidate: Candidate, snapshot: Snapshot) -> str | None:
    """Refuse a node that an operator has cordoned."""
    return "cordoned" if candidate.node.cordoned else None


def labels(needs: Needs, candidate: Candidate, snapshot: Snapshot) -> str | None:
    """Refuse a node where a label is missing or has none of the admissible values."""
    for label, admissible in needs.affinity:
        value = candidate.node.labels.get(label)
        if value is None:
            return f"no {label}"
        if value not in admissible:
            return f"{label}={value}"
    return None


def slots(needs: Needs, candidate: Candidate, snapshot: Snapshot) -> str | None:
    """Refuse a node whose slots are all taken."""
    capacity = candidate.node.slots
    return None if candidate.used_slots < capacity else f"all {capacity} slots used"


def company(needs: Needs, candidate: Candidate, snapshot: Snapshot) -> str | None:
    """Keep a run that has to be alone apart from all others."""
    if candidate.has_loner:
        return "a run works there that has to be alone"
    if needs.alone:
        return "other runs work there" if candidate.used_slots else None
    return "kept free for a run that has to be alone" if candidate.is_kept else None


def resources(needs: Needs, candidate: Candidate, snapshot: Snapshot) -> str | None:
    """Refuse a node whose declared CPU or memory would not suffice."""
    node = candidate.node
    if node.cpu_millis and candidate.used_cpu_millis + needs.cpu_millis > node.cpu_millis:
        return f"cpu: needs {needs.cpu_millis}m of {node.cpu_millis}m, too little is free"
    if node.memory_bytes and candidate.used_memory_bytes + needs.memory_bytes > node.memory_bytes:
        needed, capacity = _mebibytes(needs.memory_bytes), _mebibytes(node.memory_bytes)
        return f"memory: needs {needed} of {capacity}, too little is free"
    return None


# The first that objects gives the reason: what an operator can do least about comes first.
CONSTRAINTS: tuple[tuple[Why, Constraint], ...] = (
    (Why.LABELS, labels),
    (Why.SILENT, silent),
    (Why.DRAINING, draining),
    (Why.CORDONED, cordoned),
    (Why.ALONE, company),
    (Why.SLOTS, slots),
    (Why.RESOURCES, resources),
)


def refusal(needs: Needs, candidate: Candidate, snapshot: Snapshot) -> Refusal | None:
    """Return the first constraint's reason against this node, or None if it fits."""
    for why, constraint in CONSTRAINTS:
        text = constraint(needs, candidate, snapshot)
        if text is not None:
            return Refusal(why, text)
    return None


def candidates(snapshot: Snapshot) -> list[Candidate]:
    """Return the nodes as they stand, one of them kept for each kind of run that must be alone.

    That is the one with the fewest leases: in a busy fleet none would ever become empty by itself.
    """
    found = [Candidate.of(node) for node in snapshot.nodes]
    waiting = ((snapshot.deployments[run.dep_id], run) for run in snapshot.waiting if run.alone)
    for needs in {d.needs_of(run) for d, run in waiting if limit(d, 0, 0) is None}:
        fit = [one for one in found if not one.has_loner and _fits_when_empty(needs, one, snapshot)]
        if fit:
            min(fit, key=lambda one: (one.used_slots, one.node.node_id)).is_kept = True
    return found


def emptied(candidate: Candidate) -> Candidate:
    """Return the node as it will be once nothing works there; one that is kept stays so."""
    return replace(candidate, used_slots=0, used_cpu_millis=0, used_memory_bytes=0)


def _fits_when_empty(needs: Needs, candidate: Candidate, snapshot: Snapshot) -> bool:
    return refusal(needs, emptied(candidate), snapshot) is None


def is_awaited(needs: Needs, candidates: Iterable[Candidate], snapshot: Snapshot) -> bool:
    """Say whether a node is kept that a run with these needs could have once it is empty."""
    return any(one.is_kept and _fits_when_empty(needs, one, snapshot) for one in candidates)


def limit(
    deployment: Deployment, placed: int, placed_at_host: int, *, reserved: bool = False
) -> Refusal | None:
    """Return why the deployment itself takes no further run, proposals counted.

    Args:
        deployment: Whose run it would be.
        placed: Proposals for it.
        placed_at_host: Proposals for all deployments that share its target's breaker.
        reserved: Whether its last place is for its run that has to be alone, for which a node is
            emptied. Had another run that place, no node would be kept meanwhile, and in a busy
            fleet that could go on for ever.
    """
    if not deployment.active:
        return Refusal(Why.PAUSED, "the deployment is paused")
    gate = deployment.gate
    if gate is not None and placed_at_host >= gate.room:
        return Refusal(Why.TARGET, gate.why)
    free = deployment.run_limit - deployment.leased - placed
    if reserved and free == 1:
        return Refusal(Why.ALONE, "its last place is for a run that has to be alone on its node")
    if free > 0:
        return None
    if deployment.replicas == 1:
        return Refusal(Why.SLOT_BUDGET, f"slot budget of {deployment.slot_budget} is used")
    return Refusal(
        Why.SLOT_BUDGET,
        f"slot budget of {deployment.slot_budget} x {deployment.replicas} replicas is used",
    )


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.0f}Mi"
