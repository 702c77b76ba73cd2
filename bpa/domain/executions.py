"""One execution of a run: what a node is given, and how it ended."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import msgspec

from bpa.domain.journal import HOST_CHARS_MAX, Amount, EffectCall, Step
from bpa.domain.specs import AgentSpec, Budgets, HttpOutSpec


class Admission(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What control knew of the breaker of the run's target when it offered the run."""

    closings: int = 0
    """How often that breaker has closed: higher than the node has heard closes the node's own."""
    probe: bool = False
    """The run's one request finds out whether the target answers again."""
    watched: bool = False
    """The breaker is not closed yet: control wants to hear that the target answered."""


class RunSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """All that a node needs to execute one run."""

    run_id: str
    agent: AgentSpec
    deployment_id: str
    environment: str
    routes: list[str]
    budgets: Budgets
    http_out: HttpOutSpec
    effect_key: str
    max_effects: int = 1
    input_schema: dict[str, Any] | None = None
    """What the deployment demands of the fields; prose has some only after the model's answer."""
    document: bytes
    """The decoded input, as ``bpa.documents.to_wire`` writes it."""
    execution: int = 1
    """Counts executions from 1; above 1, or in a replay, the journal may hold answers."""
    worked_s: float = 0.0
    """Seconds of the duration budget that earlier executions used."""
    journal: list[Step] = msgspec.field(default_factory=list)
    admission: Admission = Admission()


class LeaseOffer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A run offered to a node: good only once acknowledged under its epoch (I6)."""

    run: RunSpec
    epoch: int
    ttl_s: float
    deadline_s: float
    """Seconds of working time that are left of the duration budget."""
    traceparent: str
    tracestate: str = ""


class OutcomeKind(StrEnum):
    """How one execution of a run ended, by whose fault (I10)."""

    COMPLETED = "completed"
    REJECTED = "rejected"
    """Terminal with a reason: schema, policy, budget, deadline, retries of a call."""
    AGENT_FAILED = "agent_failed"
    """The agent raised; a new execution, three in all."""
    CRASHED = "crashed"
    """The child died while its node lives to tell; five in all."""
    NODE_FAILED = "node_failed"
    """The node had no sandbox for it; as a lapsed lease, twenty in all."""
    HANDED_BACK = "handed_back"
    """Given back on drain or shutdown; costs nothing."""
    PARKED = "parked"
    """Its target fails for everybody: nothing was sent, or it was a probe; costs nothing."""


class BudgetKind(StrEnum):
    """Which budget a call ran into; the label of ``bpa_budget_exceeded_total``."""

    TOKENS = "tokens"
    CALLS = "calls"
    USD = "usd"


class Excess(msgspec.Struct, frozen=True, kw_only=True):
    """A budget that a call did not fit, which ended its run; amounts of what the budget counts."""

    kind: BudgetKind
    limit: Amount
    consumed: Amount
    """By the run's calls so far, reservations of lost answers included."""
    refused: Amount | None
    """The most that the call may have needed; None where its model has no price."""

    def __str__(self) -> str:
        """Say it in one line for an operator."""
        needed = self.refused or "an unknown amount: the model is not in prices.toml"
        return (
            f"{self.kind} budget of {self.limit}: {self.consumed} used, and the next call may "
            f"need {needed}"
        )


class TargetSeen(msgspec.Struct, frozen=True, kw_only=True):
    """What an execution saw of its target, where that concerns the breaker of the target's host."""

    host: Annotated[str, msgspec.Meta(min_length=1, max_length=HOST_CHARS_MAX)]
    """Scheme, host and port."""
    closings: int = 0
    """How often the breaker had closed, as far as the node had heard."""
    tries: int = 0
    """Requests that failed."""
    error: Annotated[str, msgspec.Meta(max_length=200)] = ""
    """What the last of them came to; empty if the target answered."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The end of one execution, as the node reports it."""

    kind: OutcomeKind
    reason: str = ""
    """A ``bpa.errors.Reason`` when rejected."""
    detail: str = ""
    result: dict[str, Any] = msgspec.field(default_factory=dict)
    """What the effect answered: status, tries, route, vendor."""
    effect: Step | None = None
    """The effect's step with its answer, recorded in the same commit as the outcome."""
    replayed: list[int] = msgspec.field(default_factory=list)
    """Positions of the steps whose answers, recorded by earlier executions, this one went on from.
    An execution that ends without an outcome leaves none."""
    target: TargetSeen | None = None
    excess: Excess | None = None
    """What made it a ``BudgetExceeded``."""
    heard: EffectCall | None = None
    """What the target last answered to an effect that it did not take; status 0 if nothing."""
    worked_s: float = 0.0
    timings: dict[str, float] = msgspec.field(default_factory=dict)
    """Milliseconds of each stage of this execution."""
