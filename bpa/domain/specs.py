"""What is declared: agents, deployments and nodes.

msgspec structs, because they are also what REST, Postgres and the lease carry: one definition, one
JSON form (camelCase, as the architecture document writes deployments).
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from bpa.domain.quantities import CPU_PATTERN, DURATION_PATTERN, MEMORY_PATTERN, duration_s

NAME_PATTERN = "^[A-Za-z0-9]([A-Za-z0-9._+-]{0,251}[A-Za-z0-9])?$"
"""What people name things by: it stands in paths, labels and log lines."""


def _told(**schema: Any) -> msgspec.Meta:
    """Describe in JSON Schema what is checked elsewhere, where all that is wrong is told at once.

    Schemathesis holds the two equal, in both directions.
    """
    return msgspec.Meta(extra_json_schema=schema)


Name = Annotated[str, _told(pattern=NAME_PATTERN)]
Count = Annotated[int, _told(minimum=1, maximum=2**31 - 1)]
Runs = Annotated[int, _told(minimum=1, maximum=1_000_000)]


class ModelProfile(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Which model an agent speaks to, and how."""

    provider: str = "anthropic"
    model: str = "claude-haiku-4-5"
    max_output_tokens: int = 400
    """Tokens of one answer at most; part of every reservation."""


class AgentSpec(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """One version of an agent: what it is told and with which model it works."""

    agent_id: Name
    version: Name
    name: str
    instructions: str
    model_profile: ModelProfile = ModelProfile()


class Budgets(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What one run may use, over all its calls and executions."""

    max_tokens: Count = 4000
    """Tokens: input with cache reads and writes, plus output."""
    max_duration: Annotated[str, _told(pattern=DURATION_PATTERN)] = "60s"
    """Working time, such as ``500ms``, ``60s`` or ``5m``; waiting for a place does not count."""
    max_usd: Annotated[float, _told(minimum=0, maximum=2**31 - 1)] | None = None
    max_calls: Count = 8

    @property
    def max_duration_s(self) -> float:
        """The working time in seconds."""
        return duration_s(self.max_duration)


class Resources(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What one run of the deployment needs on a node, in Kubernetes' notation."""

    cpu: Annotated[str, _told(pattern=CPU_PATTERN)] = "0"
    memory: Annotated[str, _told(pattern=MEMORY_PATTERN)] = "0"


class Target(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """How much of the fleet a deployment may take."""

    slot_budget: Runs = 4
    replicas: Runs = 1
    resources: Resources = Resources()


class Placement(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Where runs may go: each label must have one of the listed values."""

    affinity: dict[str, list[str]] = msgspec.field(default_factory=dict)


class HttpOutSpec(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The deployment's target API; the agent decides none of this."""

    base_url: str = ""
    """Full URL of the POST; empty takes ``connectors.http_out.base_url`` of the settings."""
    timeout_s: Annotated[float, _told(minimum=0.001, maximum=600)] = 10.0
    idempotent: bool = True
    """Whether the target applies a repeated ``Idempotency-Key`` once. Where it does not, an effect
    that may have been applied is never sent again: the run ends as ``OutcomeUnknown``."""


EFFECTS_MAX = 5
"""Effects that a deployment may allow a run; each costs a turn of the agent's conversation."""


class DeploymentSpec(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """One agent version at work on one queue."""

    agent_id: Name
    version: Name
    environment: Name
    target: Target = Target()
    placement: Placement = msgspec.field(default_factory=Placement)
    queue: Annotated[str, _told(minLength=1, maxLength=260)] = "invoices"
    routes: Annotated[list[str], _told(minItems=1)] = msgspec.field(
        default_factory=lambda: ["general"]
    )
    """What ``post_invoice`` may answer as route."""
    budgets: Budgets = Budgets()
    http_out: HttpOutSpec = HttpOutSpec()
    max_effects: Annotated[int, _told(minimum=1, maximum=EFFECTS_MAX)] = 1
    """Different effects of one run, 1 to 5. With one, the run ends as soon as it is applied; with
    more, when all are, or when the agent finishes."""
    input_schema: dict[str, Any] | None = None
    """A JSON Schema that every document has to satisfy, if the deployment demands one."""

    @property
    def run_limit(self) -> int:
        """Runs that may work at once: slotBudget x replicas."""
        return self.target.slot_budget * self.target.replicas


class NodeSpec(msgspec.Struct, frozen=True, rename="camel"):
    """What a node says of itself when it registers; one of a later release may say more."""

    node_id: Name
    boot_id: Name
    """Fresh for each process; a new one ends the leases of the old one."""
    slots: Annotated[int, _told(minimum=1, maximum=10_000)]
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    cpu_millis: Annotated[int, _told(minimum=0, maximum=2**31 - 1)] = 0
    memory_bytes: Annotated[int, _told(minimum=0, maximum=2**63 - 1)] = 0
    version: str = ""
    protections: Annotated[list[Name], _told(maxItems=64)] | None = None
    """What it found to confine its sandboxes, of `bpa.domain.sandboxes.Protection`; null where a
    node does not say, such as one of an earlier release."""
