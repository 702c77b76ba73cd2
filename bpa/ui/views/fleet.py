"""The fleet: nodes, their slots and what they run, and how far a drain has come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from bpa.control.drains import STAGE_WORDS, NodeState
from bpa.control.rest.node_schemas import Drain, Node, NodeDetail, NodeLease, Sandbox
from bpa.domain.sandboxes import LEVEL_WORDS, in_force, not_in_force
from bpa.ui.views import status
from bpa.words import segment, span

_SLOTS_DRAWN = 32
"""Slots that are drawn one by one; more become one bar."""


@dataclass(frozen=True, slots=True)
class Card:
    """A node as the fleet shows it."""

    node: Node
    badge: status.Badge
    region: str
    labels: Sequence[tuple[str, str]]
    """Without the region."""
    slots: Sequence[bool]
    """Which are taken; empty where there are too many to draw."""
    share: float
    heartbeat: str
    sandbox: str
    """The level of its sandboxes in a word or two; empty where the node does not say."""
    path: str

    @property
    def is_out(self) -> bool:
        """Whether somebody keeps new leases from it."""
        return self.node.state in (NodeState.CORDONED, NodeState.DRAINING, NodeState.DRAINED)


@dataclass(frozen=True, slots=True)
class Fleet:
    """The whole page."""

    cards: Sequence[Card]
    slots: int
    used: int
    ready: int

    @property
    def said(self) -> str:
        """What changed, in a sentence for who listens to the page."""
        return f"{self.ready} of {len(self.cards)} nodes ready, {self.used} of {self.slots} slots"


@dataclass(frozen=True, slots=True)
class Held:
    """A run that a node holds."""

    lease: NodeLease
    stage: str
    since: datetime
    latest: str
    """What ends its stay, whatever it does."""
    path: str


@dataclass(frozen=True, slots=True)
class Draining:
    """A drain and how far it has come."""

    headline: str
    detail: str
    share: float
    """Of the time to the deadline that is over, 0 to 1."""
    is_over: bool
    deadline_at: datetime


@dataclass(frozen=True, slots=True)
class Confined:
    """What keeps the node's sandboxes in, in words."""

    held: Sequence[str]
    missing: Sequence[str]


@dataclass(frozen=True, slots=True)
class NodePage:
    """One node's page."""

    card: Card
    confined: Confined | None
    """None of a node that does not say."""
    held: Sequence[Held]
    drain: Draining | None
    commands: Sequence[str]

    @property
    def said(self) -> str:
        """What changed, in a sentence for who listens to the page."""
        name, badge = self.card.node.node_id, self.card.badge.text
        return f"{name} is {badge}, {len(self.held)} runs on it"


def fleet(nodes: Sequence[Node]) -> Fleet:
    """Return what the page shows: who needs somebody first, then by name."""
    cards = sorted(
        (card(node) for node in nodes), key=lambda c: (c.badge.tone == "good", c.node.node_id)
    )
    return Fleet(
        cards=cards,
        slots=sum(one.node.slots for one in cards),
        used=sum(one.node.slots_used for one in cards),
        ready=sum(one.badge.tone == "good" for one in cards),
    )


def card(node: Node) -> Card:
    """Return a node as the fleet shows it."""
    taken = [index < node.slots_used for index in range(max(node.slots, node.slots_used))]
    return Card(
        node=node,
        badge=status.of_node(node),
        region=node.labels.get("region", ""),
        labels=sorted((k, v) for k, v in node.labels.items() if k != "region"),
        slots=taken if len(taken) <= _SLOTS_DRAWN else [],
        share=min(1.0, node.slots_used / node.slots),
        heartbeat=span(node.heartbeat_age_s),
        sandbox=LEVEL_WORDS[node.sandbox.level] if node.sandbox else "",
        path=f"/ui/fleet/{segment(node.node_id)}",
    )


def node_page(node: NodeDetail) -> NodePage:
    """Return what a node's page shows."""
    name = node.node_id
    out = [f"bpa uncordon {name}"] if node.state is not NodeState.READY else []
    return NodePage(
        card=card(node),
        confined=_confined(node.sandbox) if node.sandbox else None,
        held=[_held(lease, node.drain) for lease in node.leases],
        drain=_draining(node) if node.drain else None,
        commands=[
            f"bpa nodes show {name}",
            f"bpa drain {name} --deadline 10m",
            f"bpa cordon {name}",
            *out,
        ],
    )


def _confined(sandbox: Sandbox) -> Confined:
    return Confined(in_force(sandbox.protections), not_in_force(sandbox.missing))


def _held(lease: NodeLease, drain: Drain | None) -> Held:
    return Held(
        lease=lease,
        stage=STAGE_WORDS[lease.stage],
        since=lease.acknowledged_at or lease.granted_at,
        latest=_latest(lease, drain),
        path=f"/ui/runs/{segment(lease.run_id)}",
    )


def _latest(lease: NodeLease, drain: Drain | None) -> str:
    if lease.left_s is not None and (drain is None or lease.left_s < drain.left_s):
        return f"ends in {span(lease.left_s)}"
    if drain is None:
        return "lapses if it is not taken up"
    return f"handed back in {span(drain.left_s)}" if drain.left_s else "handed back now"


def _draining(node: NodeDetail) -> Draining:
    drain = node.drain
    assert drain is not None, "asked of draining nodes alone"
    runs = len(node.leases)
    whole_s = max(1.0, (drain.deadline_at - drain.started_at).total_seconds())
    noun = "run" if runs == 1 else "runs"
    if not runs:
        headline = f"{node.node_id} is empty"
        detail = "It stays cordoned, restarts included, until you uncordon it."
    elif drain.left_s:
        headline = f"{runs} {noun} left, {span(drain.left_s)} to go"
        detail = (
            "They may end by themselves until the deadline. What is left then is handed back, at "
            "no cost to a run, and goes on elsewhere by its journal."
        )
    else:
        headline = f"Deadline passed, {runs} {noun} still here"
        detail = "They are handed back with the next heartbeat."
    return Draining(
        headline, detail, min(1.0, 1 - drain.left_s / whole_s), not runs, drain.deadline_at
    )
