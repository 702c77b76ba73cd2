"""Deployments: which agent feeds from which queue, how much it may take, where its runs may go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from bpa.control.rest.deployment_schemas import Deployment
from bpa.control.rest.node_schemas import Node
from bpa.control.rest.queue_schemas import Queue
from bpa.domain.specs import DeploymentSpec
from bpa.ui.views import status
from bpa.ui.words import count, harmless
from bpa.words import segment, span, usd

_JSON_CHARS_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Card:
    """A deployment as the list shows it."""

    deployment: Deployment
    spec: DeploymentSpec
    badge: status.Badge
    queue: Queue | None
    share: float
    """Of the runs that it may have at once, those it has."""
    placement: Sequence[tuple[str, str]]
    path: str

    @property
    def is_paused(self) -> bool:
        """Whether nothing is received for it and nothing starts."""
        return self.deployment.paused_at is not None


@dataclass(frozen=True, slots=True)
class Suits:
    """A node, and whether the deployment's runs may go there."""

    node: Node
    badge: status.Badge
    why_not: str
    """Empty where they may."""
    path: str


@dataclass(frozen=True, slots=True)
class DeploymentPage:
    """One deployment's page."""

    card: Card
    budgets: Sequence[tuple[str, str]]
    target: Sequence[tuple[str, str]]
    nodes: Sequence[Suits]
    json: str
    commands: Sequence[str]

    @property
    def said(self) -> str:
        """What changed, in a sentence for who listens to the page."""
        return f"{self.card.deployment.deployment_id}: {self.card.deployment.alive} runs alive"


def cards(deployments: Sequence[Deployment], queues: Sequence[Queue]) -> list[Card]:
    """Return what the list shows."""
    return [_card(one, queues) for one in deployments]


def _card(deployment: Deployment, queues: Sequence[Queue]) -> Card:
    spec = msgspec.convert(deployment.spec, DeploymentSpec)
    fed = [one for one in queues if one.deployment_id == deployment.deployment_id]
    return Card(
        deployment=deployment,
        spec=spec,
        badge=status.Badge("paused", "pause", "wait")
        if deployment.paused_at
        else status.Badge("active", "done", "good"),
        queue=fed[0] if fed else None,
        share=min(1.0, deployment.alive / spec.run_limit),
        placement=[(name, " or ".join(v)) for name, v in sorted(spec.placement.affinity.items())],
        path=f"/ui/deployments/{segment(deployment.deployment_id)}",
    )


def deployment_page(
    deployment: Deployment, queues: Sequence[Queue], nodes: Sequence[Node]
) -> DeploymentPage:
    """Return what a deployment's page shows."""
    card = _card(deployment, queues)
    spec = card.spec
    name = deployment.deployment_id
    written = msgspec.json.format(msgspec.json.encode(deployment.spec), indent=2)
    return DeploymentPage(
        card=card,
        budgets=[
            ("tokens", count(spec.budgets.max_tokens)),
            ("time at work", span(spec.budgets.max_duration_s)),
            ("model calls", count(spec.budgets.max_calls)),
            ("USD", usd(str(spec.budgets.max_usd)) if spec.budgets.max_usd else "no limit"),
            ("effects", count(spec.max_effects)),
        ],
        target=[
            ("address", spec.http_out.base_url or "that of the settings"),
            ("timeout", span(spec.http_out.timeout_s)),
            ("honours idempotency keys", "yes" if spec.http_out.idempotent else "no"),
            ("routes", ", ".join(spec.routes)),
            ("input schema", "demanded" if spec.input_schema else "none"),
        ],
        nodes=[_suits(node, spec) for node in nodes],
        json=harmless(written.decode(), _JSON_CHARS_MAX),
        commands=[
            f"bpa runs list --deployment {name}",
            f"bpa deployments edit {name}",
            f"bpa deployments pause {name}",
            "bpa queues",
        ],
    )


def _suits(node: Node, spec: DeploymentSpec) -> Suits:
    refused = [
        f"{name} is {node.labels.get(name, 'not set')}, not {' or '.join(values)}"
        for name, values in spec.placement.affinity.items()
        if node.labels.get(name) not in values
    ]
    path = f"/ui/fleet/{segment(node.node_id)}"
    return Suits(node, status.of_node(node), "; ".join(refused), path)
