"""What REST says of nodes: their state, their drain, and what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

import msgspec

from bpa.control.drains import NodeState, Stage, state_of
from bpa.control.rest.schemas import Asked, Document, Time
from bpa.domain.sandboxes import SandboxLevel, level_of, missing_from


class DrainAsked(Asked, frozen=True):
    """How long a node may take to become empty."""

    deadline_s: Annotated[float, msgspec.Meta(ge=0, le=604_800)] | None = None
    """Seconds from now in which runs may end by themselves; 0 hands them back at once. Left out, a
    drain that is under way keeps its deadline, and a new one gets 600."""


class Drain(Document, frozen=True):
    """A drain, under way or done."""

    started_at: Time
    deadline_at: Time
    left_s: float
    """Seconds to the deadline; 0 once it has passed."""
    requested_by: str | None
    """Who set the deadline, as the audit has it."""


class Sandbox(Document, frozen=True):
    """What confines a run on a node, as the node found it to be when it started."""

    level: SandboxLevel
    protections: list[str]
    """In force; a node of a later release may name more than are known here."""
    missing: list[str]
    """Known here, and not in force."""

    @classmethod
    def of_names(cls, names: list[str] | None) -> Self | None:
        """Build it of what a node published; None of one that published nothing."""
        if names is None:
            return None
        return cls(level=level_of(names), protections=names, missing=[*missing_from(names)])


class Node(Document, frozen=True):
    """A node as the fleet sees it."""

    node_id: str
    boot_id: str
    labels: dict[str, str]
    version: str
    sandbox: Sandbox | None
    """Null while the node is of a release that does not say."""
    slots: int
    slots_used: int
    state: NodeState
    draining: bool
    """It is to become empty, by an operator's will or its own."""
    cordoned_at: Time | None
    cordoned_by: str | None
    """As the audit has it; null also where it does not know."""
    drain: Drain | None
    registered_at: Time
    heartbeat_at: Time
    heartbeat_age_s: float

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Build it from its row."""
        metadata, capacity = row["metadata"], row["capacity"]
        more = {
            "labels": metadata["labels"],
            "version": metadata["version"],
            "sandbox": Sandbox.of_names(metadata.get("protections")),
            "slots": capacity["slots"],
            "state": state_of(row),
            "draining": row["drain_deadline_at"] is not None or bool(row["status"].get("closing")),
            "drain": _drain(row),
        }
        return super().of({**row, **more})


def _drain(row: Mapping[str, Any]) -> Drain | None:
    if row["drain_deadline_at"] is None:
        return None
    return Drain(
        started_at=row["drain_started_at"],
        deadline_at=row["drain_deadline_at"],
        left_s=max(0.0, row["drain_left_s"]),
        requested_by=row["drain_asked_by"],
    )


class NodeLease(Document, frozen=True):
    """A lease that a node holds, and how far its run has come."""

    run_id: str
    deployment_id: str
    epoch: int
    stage: Stage
    granted_at: Time
    acknowledged_at: Time | None
    left_s: float | None
    """Seconds of the run's own working time that are left; null before it is acknowledged."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Build it from its row."""
        return super().of({**row, "deployment_id": row["dep_id"]})


class NodeDetail(Node, frozen=True):
    """A node with what it holds."""

    leases: list[NodeLease]
    """Oldest first."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Build it from its row and those of its leases."""
        return super().of({**row, "leases": [NodeLease.of(lease) for lease in row["leases"]]})


class NodeDrained(Document, frozen=True):
    """What was asked of a node, and what it holds from now on at most."""

    node: NodeDetail
    taken_back: int
    """Offers that it had not acknowledged; their runs wait for another node."""
    deadline_before: Time | None
    """Of the drain that was under way."""
    empty_within_s: float
    """Seconds after which nothing can be left there, whatever the node does."""


class NodeCordoned(Document, frozen=True):
    """What was asked of a node."""

    node: NodeDetail
    taken_back: int
    """Offers that it had not acknowledged; their runs wait for another node."""


class NodeUncordoned(Document, frozen=True):
    """What was asked of a node."""

    node: NodeDetail
    called_off: Time | None
    """The deadline of the drain that was called off."""
