"""What REST says of runs: in a list, whole, and of the parts of one.

The command line reads them too: nothing here imports the web framework, which takes it 0.1 s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from bpa.control.rest.schemas import Asked, Document, Text, Time
from bpa.control.stages import Stage
from bpa.control.steps import StepState, call_of, states_of
from bpa.control.timeline import timeline
from bpa.domain.journal import EffectCall, ModelCall
from bpa.domain.runs import TERMINAL, RunStatus


class Cancel(Asked, frozen=True):
    """Why a run is cancelled, and by whom."""

    detail: Text = ""
    """Why; the run's own detail says by whom as well."""


class Cancelled(Document, frozen=True):
    """How far a cancellation has come."""

    run_id: str
    status: RunStatus
    """``dead_lettered``: it is done; otherwise the run's node has been asked to end it."""
    cancelling: bool


class Parked(Document, frozen=True):
    """A run that waits for its target to answer again; it costs the run nothing."""

    host: str
    since: Time
    error: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Build it from its JSON."""
        return super().of({**row, "since": Time.fromisoformat(row["since"])})


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
    waiting_until: Time | None
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
    created_at: Time
    started_at: Time | None
    ended_at: Time | None
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
    started_at: Time
    ended_at: Time | None


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
    started_at: Time
    ended_at: Time | None
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
    sequence_number: int | None
    """Of the message; a replay that was sent twice has two. Null in rows of the first release."""
    owner: str
    delivery_count: int
    received_at: Time
    settled_at: Time | None
    disposition: str | None


class MessageView(Document, frozen=True):
    """What came with a run's message beside its body; values that may be secrets are withheld."""

    content_type: str | None
    correlation_id: str | None
    properties: dict[str, str]
    """Application properties, as text, cut at 200 characters."""
    properties_left_out: int
    """Beyond the 32 that are kept."""


class ReplayLink(Document, frozen=True):
    """A run among those that one message came to be, by its replays."""

    run_id: str
    replay_number: int
    """0 for the original."""
    edited: bool
    """Whether it has another body than the run before it."""
    requested_by: str | None
    """Null for the original, which nobody replayed."""
    requested_at: Time | None
    status: str | None
    """Null where its message has not arrived yet."""
    reason: str | None


class Run(RunSummary, frozen=True):
    """A run whole."""

    revision: int | None
    """Of the deployment, that its message was received under: what its agent is told and may do.
    Null where an earlier release received it."""
    input_ref: dict[str, Any]
    effect_key: str
    replay_of: str | None
    """The run whose dead letter it replays."""
    enqueued_at: Time
    lease_epoch: int
    lease_expires_at: Time | None
    cancel_asked_at: Time | None
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
    message: MessageView | None
    """What came beside the body; null where an earlier release received it."""
    replays: list[ReplayLink]
    """All that one message came to be, from the original on; empty where nothing was replayed."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Run:
        """Build it from its row."""
        steps = steps_of(row)
        more = {
            "timeline": [StageView.of_stage(stage) for stage in timeline(row)],
            "steps": steps,
            "unknown_calls": sum(step.state is StepState.UNKNOWN for step in steps),
            "deliveries": [DeliveryView.of(delivery) for delivery in row["deliveries"]],
            "message": MessageView.of(row["message"]) if row["message"] else None,
            "replays": [ReplayLink.of(link) for link in row["links"]],
        }
        return super().of({**row, **more})


def executions_of(run: Run) -> str:
    """Say how often a run was executed, and by whose fault more than once; empty if never."""
    counted = {
        "failed by the agent": run.agent_failures,
        "crashed": run.crashes,
        "lost by the infrastructure": run.infra_failures,
    }
    wrong = ", ".join(f"{number} {what}" for what, number in counted.items() if number)
    return f"{run.executions}{f' ({wrong})' if wrong else ''}" if run.executions else ""


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
