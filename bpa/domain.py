"""The platform's nouns: ids, specs, runs and how a run's status may change.

Pure values; every store and every edge speaks in these. Specs are msgspec structs, because they
are also what REST, Postgres and the lease carry: one definition, one JSON form (camelCase, as the
architecture document writes deployments).
"""

from __future__ import annotations

import hashlib
import re
import uuid
from enum import StrEnum
from typing import Annotated, Any, NewType

import msgspec

from bpa.errors import InvalidRequest

RunId = NewType("RunId", str)
NodeId = NewType("NodeId", str)
AgentId = NewType("AgentId", str)
DeploymentId = NewType("DeploymentId", str)


class RunStatus(StrEnum):
    """Where a run is on its way."""

    QUEUED = "queued"
    OFFERED = "offered"
    RUNNING = "running"
    COMPLETED = "completed"
    DEAD_LETTERED = "dead_lettered"


TERMINAL = frozenset({RunStatus.COMPLETED, RunStatus.DEAD_LETTERED})

# from -> event -> to. The one place that says how a run may move; each UPDATE repeats its guard.
# docs/run-states.md shows it and says what each event is.
TRANSITIONS: dict[RunStatus, dict[str, RunStatus]] = {
    RunStatus.QUEUED: {
        "grant": RunStatus.OFFERED,
        "cancel": RunStatus.DEAD_LETTERED,
        "bury": RunStatus.DEAD_LETTERED,
    },
    RunStatus.OFFERED: {
        "acknowledge": RunStatus.RUNNING,
        "refuse": RunStatus.QUEUED,
        "take back": RunStatus.QUEUED,
        "lapse": RunStatus.QUEUED,
        "exhaust": RunStatus.DEAD_LETTERED,
        "cancel": RunStatus.DEAD_LETTERED,
        "bury": RunStatus.DEAD_LETTERED,
    },
    RunStatus.RUNNING: {
        "complete": RunStatus.COMPLETED,
        "fail": RunStatus.DEAD_LETTERED,
        "retry": RunStatus.QUEUED,
        "hand back": RunStatus.QUEUED,
        "park": RunStatus.QUEUED,
        "lapse": RunStatus.QUEUED,
        "exhaust": RunStatus.DEAD_LETTERED,
        "cancel": RunStatus.DEAD_LETTERED,
        "bury": RunStatus.DEAD_LETTERED,
    },
    RunStatus.COMPLETED: {},
    RunStatus.DEAD_LETTERED: {},
}


def run_id_of(namespace: str, queue: str, sequence_number: int, enqueued_ms: int) -> RunId:
    r"""Return the run's id, a pure function of its message.

    A UUIDv8 (RFC 9562): 48 bits of the enqueued time in ms, so that ids sort by arrival, then
    74 bits of SHA-256 over ``namespace\nqueue\nsequence\nms``. Names compare case-insensitively
    in Service Bus, so they are lowered first.
    """
    name = f"{namespace.lower()}\n{queue.lower()}\n{sequence_number}\n{enqueued_ms}"
    digest = hashlib.sha256(name.encode()).digest()
    raw = bytearray(enqueued_ms.to_bytes(6, "big") + digest[:10])
    raw[6] = raw[6] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    return RunId(str(uuid.UUID(bytes=bytes(raw))))


def effect_key_of(run_id: RunId, sequence_number: int) -> str:
    """Return the idempotency key of a run's first effect: ``<run_id>:<sequence number>``."""
    return f"{run_id}:{sequence_number}"


def further_key_of(effect_key: str, nth: int) -> str:
    """Return the key of a run's n-th effect, counted from 1: the first has the run's own (I4)."""
    return effect_key if nth == 1 else f"{effect_key}:{nth}"


_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_CPU = re.compile(r"(\d+(?:\.\d+)?)(m?)")
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)(|k|M|G|T|Ki|Mi|Gi|Ti)")
_MEMORY_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12} | {
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


def duration_s(text: str) -> float:
    """Return seconds for a duration such as ``500ms``, ``60s``, ``5m`` or ``1h``.

    Raises:
        InvalidRequest: It is none.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise InvalidRequest(f"{text!r} is no duration; write for example 60s or 5m")
    return float(match[1]) * _DURATION_UNITS[match[2]]


def cpu_millis(text: str) -> int:
    """Return thousandths of a core for a Kubernetes CPU quantity such as ``500m`` or ``2``.

    Raises:
        InvalidRequest: It is none.
    """
    match = _CPU.fullmatch(text)
    if match is None:
        raise InvalidRequest(f"{text!r} is no CPU quantity; write for example 500m or 2")
    return round(float(match[1]) * (1 if match[2] else 1000))


def memory_bytes(text: str) -> int:
    """Return bytes for a Kubernetes memory quantity such as ``1Gi`` or ``512M``.

    Raises:
        InvalidRequest: It is none.
    """
    match = _MEMORY.fullmatch(text)
    if match is None:
        raise InvalidRequest(f"{text!r} is no memory quantity; write for example 512Mi or 1Gi")
    return round(float(match[1]) * _MEMORY_UNITS[match[2]])


class ModelProfile(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Which model an agent speaks to, and how."""

    provider: str = "anthropic"
    model: str = "claude-haiku-4-5"
    max_output_tokens: int = 400
    """Tokens of one answer at most; part of every reservation."""


class AgentSpec(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """One version of an agent: what it is told and with which model it works."""

    agent_id: str
    version: str
    name: str
    instructions: str
    model_profile: ModelProfile = ModelProfile()


class Budgets(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What one run may use, over all its calls and executions."""

    max_tokens: int = 4000
    """Tokens: input with cache reads and writes, plus output."""
    max_duration: str = "60s"
    """Working time, such as ``500ms``, ``60s`` or ``5m``; waiting for a place does not count."""
    max_usd: float | None = None
    max_calls: int = 8

    @property
    def max_duration_s(self) -> float:
        """The working time in seconds."""
        return duration_s(self.max_duration)


class Resources(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What one run of the deployment needs on a node, in Kubernetes' notation."""

    cpu: str = "0"
    memory: str = "0"


class Target(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """How much of the fleet a deployment may take."""

    slot_budget: int = 4
    replicas: int = 1
    resources: Resources = Resources()


class Placement(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Where runs may go: each label must have one of the listed values."""

    affinity: dict[str, list[str]] = msgspec.field(default_factory=dict)


class HttpOutSpec(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The deployment's target API; the agent decides none of this."""

    base_url: str = ""
    """Full URL of the POST; empty takes ``connectors.http_out.base_url`` of the settings."""
    timeout_s: float = 10.0
    idempotent: bool = True
    """Whether the target applies a repeated ``Idempotency-Key`` once. Where it does not, an effect
    that may have been applied is never sent again: the run ends as ``OutcomeUnknown``."""


EFFECTS_MAX = 5
"""Effects that a deployment may allow a run; each costs a turn of the agent's conversation."""


class DeploymentSpec(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """One agent version at work on one queue."""

    agent_id: str
    version: str
    environment: str
    target: Target = Target()
    placement: Placement = msgspec.field(default_factory=Placement)
    queue: str = "invoices"
    routes: list[str] = msgspec.field(default_factory=lambda: ["general"])
    """What ``post_invoice`` may answer as route."""
    budgets: Budgets = Budgets()
    http_out: HttpOutSpec = HttpOutSpec()
    max_effects: int = 1
    """Different effects of one run, 1 to 5. With one, the run ends as soon as it is applied; with
    more, when all are, or when the agent finishes."""
    input_schema: dict[str, Any] | None = None
    """A JSON Schema that every document has to satisfy, if the deployment demands one."""

    @property
    def run_limit(self) -> int:
        """Runs that may work at once: slotBudget x replicas."""
        return self.target.slot_budget * self.target.replicas


class NodeSpec(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What a node says of itself when it registers."""

    node_id: str
    boot_id: str
    """Fresh for each process; a new one ends the leases of the old one."""
    slots: int
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    cpu_millis: int = 0
    memory_bytes: int = 0
    version: str = ""


class StepKind(StrEnum):
    """What a step of the journal records."""

    MODEL = "model"
    EFFECT = "effect"


Amount = Annotated[str, msgspec.Meta(pattern=r"^[0-9]+([.][0-9]+)?$", max_length=60)]
"""USD, exactly: a decimal string, for a float would round it."""


class UnitPrice(msgspec.Struct, frozen=True, kw_only=True):
    """USD per million tokens of each kind, and whose price that is."""

    input: Amount
    output: Amount
    cache_read: Amount
    cache_write: Amount
    source: str
    version: str


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one model call by kind, and what they cost."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: Amount = "0"
    """What no price is known for is not in it."""
    unpriced_tokens: int = 0
    price: UnitPrice | None = None
    """What ``cost_usd`` was computed from; None where no price is known."""

    @property
    def total_tokens(self) -> int:
        """Tokens that count against the budget."""
        return (
            self.input_tokens
            + self.output_tokens
            + self.cache_read_tokens
            + self.cache_write_tokens
        )


HOST_CHARS_MAX = 300
"""Longer than any name of a host, with scheme and port."""
Host = Annotated[str, msgspec.Meta(max_length=HOST_CHARS_MAX)]
SAID_CHARS_MAX = 200
"""Of each thing that others say of a call: a model's name, an answer's id."""
Said = Annotated[str, msgspec.Meta(max_length=SAID_CHARS_MAX)]


class ModelCall(msgspec.Struct, frozen=True, kw_only=True, tag="model", omit_defaults=True):
    """What a step says of its model call; the answer adds what follows ``reserved_usd``."""

    provider: str
    model: str
    """The model that was asked for."""
    max_tokens: int
    reserved_usd: Amount | None = None
    """The most that the call can cost; None where its model has no price."""
    tries: int = 0
    """Requests up to the answer, a refusal included. One whose answer was lost ends its step."""
    response_id: Said = ""
    response_model: Said = ""
    finish_reasons: list[Said] = []


class EffectCall(msgspec.Struct, frozen=True, kw_only=True, tag="effect", omit_defaults=True):
    """What a step says of its request to the target; the answer adds ``status`` and ``tries``."""

    host: Host
    """Scheme, host and port; empty where the deployment's address has none."""
    method: str
    status: int = 0
    tries: int = 0


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a run in its journal: an intent, then its answer."""

    seq: int
    """Position in the journal, from 0."""
    kind: StepKind
    digest: str
    """SHA-256 of the request without ids and times that the framework invents, hex."""
    intent: bytes = b""
    """An effect's exact bytes, fixed by the first recorded intent (I4)."""
    effect_key: str = ""
    reserved_tokens: int = 0
    call: ModelCall | EffectCall | None = None
    """Whom it asked for what, and what came back, without secrets and contents; None in what nodes
    of an earlier release report."""
    answer: bytes | None = None
    """The recorded answer; None while it is not known."""
    usage: Usage = Usage()
    inherited: bool = False
    """Whether the run took it over from the one that it replays, which paid for it."""
    started_at_ms: int = 0
    ended_at_ms: int = 0
    """When the answer came. An effect that has ended without one is known not to be applied."""


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
    worked_s: float = 0.0
    timings: dict[str, float] = msgspec.field(default_factory=dict)
    """Milliseconds of each stage of this execution."""
