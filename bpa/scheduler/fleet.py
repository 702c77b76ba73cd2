"""The fleet and its work as one look at Postgres saw them: values, and nothing that acts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from bpa.domain.quantities import cpu_millis, memory_bytes
from bpa.domain.runs import DeploymentId, NodeId, RunId
from bpa.domain.specs import DeploymentSpec
from bpa.scheduler.breakers import Gate

ALONE_FROM = 3
"""From so many infrastructure failures on, a run is alone on its node: it may be what kills it."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node with what its leases, offered ones included, take of it."""

    node_id: NodeId
    boot_id: str
    slots: int
    heartbeat_at: datetime
    labels: Mapping[str, str]
    cordoned: bool = False
    draining: bool = False
    disconnected: bool = False
    """Its stream of offers broke after it was last heard of."""
    cpu_millis: int = 0
    """Thousandths of a core; 0 declares no limit."""
    memory_bytes: int = 0
    """0 declares no limit."""
    used_slots: int = 0
    used_cpu_millis: int = 0
    used_memory_bytes: int = 0
    has_loner: bool = False
    """Whether a run works there that has to be alone."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a run demands of a node; deployments with equal needs are planned as one."""

    affinity: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Each label with its admissible values, sorted by label."""
    cpu_millis: int = 0
    memory_bytes: int = 0
    alone: bool = False
    """Whether nothing else may be on the node."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment: its limit, and how far that is used."""

    dep_id: DeploymentId
    revision: int
    active: bool
    slot_budget: int
    replicas: int
    needs: Needs = Needs()
    leased: int = 0
    """Runs that hold a lease."""
    waiting: int = 0
    """Runs that wait for one, those that back off included."""
    gate: Gate | None = None
    """What the breaker of its target leaves to it; None where that is closed."""

    @property
    def run_limit(self) -> int:
        """Runs that may hold a lease at once."""
        return self.slot_budget * self.replicas

    def needs_of(self, run: WaitingRun) -> Needs:
        """Return what one of its runs demands of a node."""
        return replace(self.needs, alone=True) if run.alone else self.needs


@dataclass(frozen=True, slots=True)
class WaitingRun:
    """A run without a place."""

    run_id: RunId
    dep_id: DeploymentId
    created_at: datetime
    told: str | None = None
    """The summary of why it waits that is recorded for it."""
    alone: bool = False
    """Whether it lost `ALONE_FROM` leases or more, and has to be alone on its node."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a plan is made from."""

    now: datetime
    """Postgres's clock; nothing else measures a heartbeat's age."""
    hold_generation: int
    nodes: tuple[Node, ...]
    deployments: Mapping[DeploymentId, Deployment]
    waiting: tuple[WaitingRun, ...]
    """Each deployment's runs oldest first."""
    silent_after_s: float = 10.0
    """A node without a heartbeat for longer gets nothing."""
    seed: int = 0
    """Breaks ties, so that replicas that plan at once do not choose alike."""


def needs_of(spec: DeploymentSpec) -> Needs:
    """Return what each run of a deployment demands of a node."""
    affinity = ((label, tuple(values)) for label, values in spec.placement.affinity.items())
    resources = spec.target.resources
    return Needs(tuple(sorted(affinity)), cpu_millis(resources.cpu), memory_bytes(resources.memory))
