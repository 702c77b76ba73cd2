"""What REST says and takes, beside the specs of ``domain``: one struct a document, camelCase.

The command line reads them too: nothing here imports the web framework, which takes it 0.1 s.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Self

import msgspec

from bpa.control.stages import Stage
from bpa.control.steps import StepState, call_of, states_of
from bpa.control.timeline import timeline
from bpa.domain.executions import LeaseOffer, Outcome
from bpa.domain.journal import EffectCall, ModelCall, Step
from bpa.domain.runs import TERMINAL, RunStatus

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


class Cancel(Document, frozen=True):
    """Why a run is cancelled, and by whom."""

    detail: Text = "cancelled over the API"
    actor: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] = "api"
    """Who wants it: for the audit and for the run itself."""


class Cancelled(Document, frozen=True):
    """How far a cancellation has come."""

    run_id: str
    status: RunStatus
    """``dead_lettered``: it is done; otherwise the run's node has been asked to end it."""
    cancelling: bool


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


class Parked(Document, frozen=True):
    """A run that waits for its target to answer again; it costs the run nothing."""

    host: str
    since: datetime
    error: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Build it from its JSON."""
        return super().of({**row, "since": datetime.fromisoformat(row["since"])})


class RunSummary(Document, frozen=True):
    """A run in a list."""

    run_id: str
    agent_id: str
    version: str
    deployment_id: str
    node_id: str | None
    status: str
    reason: str | None
    detail: str | None
    waiting_reason: str | None
    waiting_until: datetime | None
    """Set while it may not be placed before that time."""
    cancelling: bool
    """Somebody wants it ended, and its node has not ended it yet."""
    parked: Parked | None
    executions: int
    cost_usd: str
    tokens_used: int
    trace_id: str
    vendor: str | None
    """As the posted result has it, else as code read it in the message; null where neither is."""
    invoice_id: str | None
    """Likewise."""
    message_id: str | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    replayed_as: str | None
    """The run that replays its dead letter."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Build it from its row."""
        cancelling = row["cancel_asked_at"] is not None and row["status"] not in TERMINAL
        waits = row["parked"] is not None and row["status"] == RunStatus.QUEUED
        more = {
            "deployment_id": row["dep_id"],
            "cancelling": cancelling,
            "parked": Parked.of(row["parked"]) if waits else None,
        }
        return super().of({**row, **more})


class StepView(Document, frozen=True):
    """A step of a run's journal, without its contents."""

    seq: int
    kind: str
    digest: str
    effect_key: str | None
    reserved_tokens: int
    call: ModelCall | EffectCall | None
    """Whom it asked for what, and what came back, without contents."""
    usage: dict[str, Any] | None
    cost_usd: str
    answered: bool
    state: StepState
    replays: int
    """Later executions that went on from its answer instead of asking again; it was paid once."""
    inherited_from: str | None
    """The run that made and paid it, where this one replays that run's message."""
    started_at: datetime
    ended_at: datetime | None


def steps_of(run: Mapping[str, Any]) -> list[StepView]:
    """Build the views of a run's steps from the run's row."""
    steps = run["steps"]
    states = states_of(run, steps)
    return [
        StepView.of({**step, "call": call_of(step), "state": state})
        for step, state in zip(steps, states, strict=True)
    ]


class StageView(Document, frozen=True):
    """One thing that happened to a run: a stage, or a part of one."""

    name: str
    span_id: str
    parent_id: str
    """Of another stage, or of the sender's span; empty for the first of a trace."""
    started_at: datetime
    ended_at: datetime | None
    """Null while it goes on."""
    attempt: int
    """Which execution it belongs to, from 1; 0 for what a run has once."""
    node_id: str
    """The node that did it; empty for control."""
    step: int | None
    """Its position among ``steps``."""
    error: str
    """The kind of its failure; empty where it went well."""
    detail: str
    attributes: dict[str, Any]
    """As the run's span of that name has them."""

    @classmethod
    def of_stage(cls, stage: Stage) -> StageView:
        """Build it from a stage of the timeline."""
        return cls(**{name: getattr(stage, name) for name in cls.__struct_fields__})


def depths_of(stages: Sequence[StageView]) -> dict[str, int]:
    """Return how deep each stage is set: a part of an execution by its place in there."""
    depths: dict[str, int] = {}
    inside: set[str] = set()
    for stage in stages:  # parents come before their parts
        is_part = stage.parent_id in inside
        depths[stage.span_id] = depths[stage.parent_id] + 1 if is_part else 0
        if is_part or stage.name == "think":
            inside.add(stage.span_id)
    return depths


class DeliveryView(Document, frozen=True):
    """A delivery of a run's message."""

    delivery_id: int
    owner: str
    delivery_count: int
    received_at: datetime
    settled_at: datetime | None
    disposition: str | None


class Run(RunSummary, frozen=True):
    """A run whole."""

    input_ref: dict[str, Any]
    effect_key: str
    replay_of: str | None
    """The run whose dead letter it replays."""
    enqueued_at: datetime
    lease_epoch: int
    lease_expires_at: datetime | None
    cancel_asked_at: datetime | None
    cancel_asked_by: str | None
    cancel_detail: str | None
    waiting_nodes: dict[str, Any] | None
    agent_failures: int
    crashes: int
    infra_failures: int
    worked_s: float
    timings: dict[str, Any]
    costs: dict[str, Any]
    outcome: dict[str, Any] | None
    unknown_calls: int
    """Model calls whose answers were lost. They are in neither ``costUsd`` nor ``tokensUsed``: each
    was billed for its ``reservedTokens`` at most."""
    timeline: list[StageView]
    """What happened, in order, each stage before its parts: what the run's trace is made of."""
    steps: list[StepView]
    deliveries: list[DeliveryView]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Run:
        """Build it from its row."""
        steps = steps_of(row)
        more = {
            "timeline": [StageView.of_stage(stage) for stage in timeline(row)],
            "steps": steps,
            "unknown_calls": sum(step.state is StepState.UNKNOWN for step in steps),
            "deliveries": [DeliveryView.of(delivery) for delivery in row["deliveries"]],
        }
        return super().of({**row, **more})


class RunPage(Document, frozen=True):
    """A page of runs, newest first."""

    runs: list[RunSummary]
    next_cursor: str | None
    """A page may be short or empty and have a next one: few of the runs looked at matched."""
    count: int | None = None
    """How many runs match, where ``count`` was asked for; null where that would take too long."""
    count_is_exact: bool = True
    """False where there are more than ``count``."""


class Total(Document, frozen=True):
    """Runs of one status and reason."""

    status: str
    reason: str | None
    runs: int
    tokens_in: int
    tokens_out: int
    unknown_calls: int
    """Model calls whose answers were lost."""
    unknown_tokens: int
    """What they were billed for at most, beside ``tokensIn`` and ``tokensOut``."""
    cost_usd: str
    latency_p50_ms: float | None
    latency_p95_ms: float | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Total:
        """Build it from its row, whose sums are decimals."""
        names = ("tokens_in", "tokens_out", "unknown_calls", "unknown_tokens")
        return super().of({**row, **{name: int(row[name]) for name in names}})


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
