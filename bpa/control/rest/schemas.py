"""What REST says and takes, beside the specs of ``domain``: one struct a document, camelCase.

The command line reads them too: nothing here imports the web framework, which takes it 0.1 s.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Self

import msgspec

from bpa.domain.executions import LeaseOffer, Outcome
from bpa.domain.journal import Step

Text = Annotated[str, msgspec.Meta(max_length=4096)]
Epoch = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Document(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A document of the API."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Build it from a row that has its fields, and perhaps more."""
        return cls(**{name: row[name] for name in cls.__struct_fields__ if name in row})


class Registered(Document, frozen=True):
    """What a registered node keeps to, seconds."""

    heartbeat_every_s: float
    lease_ttl_s: float
    cordoned: bool
    """An operator keeps new leases from the node, whatever its boot."""
    draining: bool
    """An operator wants the node empty."""


class HeldLease(Document, frozen=True):
    """A lease by its run and epoch."""

    run_id: uuid.UUID
    epoch: Epoch

    @classmethod
    def of_pair(cls, run_id: str, epoch: int) -> Self:
        """Build it from what the services speak in."""
        return cls(run_id=uuid.UUID(run_id), epoch=epoch)


class Heartbeat(Document, frozen=True):
    """What a node says it holds."""

    boot_id: Text
    held: Annotated[list[HeldLease], msgspec.Meta(max_length=10_000)] = []
    draining: bool = False
    """True from when it takes no more leases, because it is about to leave."""


class Renewed(Document, frozen=True):
    """What of it is renewed, and what is lost."""

    renewed: list[HeldLease]
    lost: list[HeldLease]
    cancel: list[str]
    """Ids of runs, among the renewed, that somebody wants ended."""
    cordoned: bool
    draining: bool
    """An operator wants the node empty; what it runs may end by itself until the deadline."""
    hand_back: bool
    """The deadline has passed: end what is held, and report it with ``:fail`` as
    ``handed_back``. A node that does not is not renewed for long."""


class Pull(Document, frozen=True):
    """A bounded long poll for leases."""

    node_id: Text
    boot_id: Text
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=30)] = 20.0
    """Seconds to wait for the first lease."""
    max: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1


class Pulled(Document, frozen=True):
    """Leases to acknowledge."""

    leases: list[LeaseOffer]


class Fenced(Document, frozen=True):
    """A report under a lease."""

    epoch: Epoch


class Refused(Fenced, frozen=True):
    """Why a node does not take an offer."""

    why: Text


class Progressed(Fenced, frozen=True):
    """How far an execution has come."""

    stage: Text


class Stepped(Fenced, frozen=True):
    """A step's intent or answer."""

    step: Step


class Ended(Fenced, frozen=True):
    """How an execution ended; ``complete`` takes ``completed`` outcomes, ``fail`` the others."""

    outcome: Outcome


class AgentVersion(Document, frozen=True):
    """One version of an agent."""

    agent_id: str
    version: str
    created_at: datetime
    spec: dict[str, Any]
    """The ``AgentSpec`` as it was posted."""


class Asked(Document, frozen=True, forbid_unknown_fields=True):
    """Who asks for a change."""

    requested_by: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] = "api"
    """For the audit; as told, until the API authenticates its callers."""


class Deployment(Document, frozen=True):
    """A deployment and its living runs."""

    deployment_id: str
    agent_id: str
    version: str
    environment: str
    queue: str
    spec: dict[str, Any]
    status: dict[str, Any]
    revision: int
    paused_at: datetime | None
    """Since when nothing is received for it and none of its runs starts; null while it works."""
    paused_by: str | None
    created_at: datetime
    alive: int
    """Its runs that have not ended."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Deployment:
        """Build it from its row."""
        paused = row["status"].get("paused")
        names = {
            "deployment_id": row["dep_id"],
            "environment": row["env"],
            "spec": row["target"],
            "paused_at": datetime.fromisoformat(paused["at"]) if paused else None,
            "paused_by": paused["by"] if paused else None,
        }
        return super().of({**row, **names})


class Breaker(Document, frozen=True):
    """The circuit breaker of one target host."""

    host: str
    """Scheme, host and port."""
    state: str
    """``open``: no run but a probe goes there; ``closing``: a few at once; ``closed``: all."""
    since: datetime | None
    """When it opened, or when the target last answered while it closed."""
    probe_at: datetime | None
    """When the next probe may go, while it is open."""
    probe_run_id: str | None
    """The run that probes it at this moment."""
    ramp: int | None
    """Runs at once while it closes."""
    failed_probes: int
    parked_runs: int
    """Runs that wait for it, their executions having ended there."""
    deployments: list[str]
    """Whose runs have failed there."""
    last_error: str
    failed_at: datetime | None


class Health(Document, frozen=True):
    """How the process is."""

    status: str
    reasons: list[str] = []
    """Why it is not ready, a line for each store that is away."""
    degraded: list[str] = []
    """What is away though the process is ready: a line for each queue."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error as RFC 9457 has it, with our code."""

    title: str
    status: int
    detail: str
    code: str
    instance: str
    type: str = "about:blank"
    trace_id: str | None = None
    errors: list[str] = []
