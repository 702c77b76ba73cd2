"""What the handlers of REST work with."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bpa.control.agents import Agents
from bpa.control.breakers import Breakers
from bpa.control.changes import Changes
from bpa.control.costs import Costs
from bpa.control.dead_letters import DeadLetters
from bpa.control.deployments import Deployments
from bpa.control.drains import Drains
from bpa.control.history import History
from bpa.control.leases import Leases
from bpa.control.looking import Looking
from bpa.control.nodes import Nodes
from bpa.control.offers import Offers
from bpa.control.operations import Operations
from bpa.control.queues import Queues
from bpa.control.readiness import State
from bpa.control.replaying import Replaying
from bpa.control.revisions import Revisions
from bpa.control.runs import Runs
from bpa.control.searches import Searches
from bpa.control.simulations import Simulations
from bpa.control.trends import Trends
from bpa.domain.runs import RunId
from bpa.errors import NotFound, StaleLease
from bpa.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Services:
    """Control's services, and what wakes the rest of the replica."""

    agents: Agents
    breakers: Breakers
    changes: Changes
    deployments: Deployments
    revisions: Revisions
    simulations: Simulations
    nodes: Nodes
    drains: Drains
    leases: Leases
    offers: Offers
    operations: Operations
    runs: Runs
    history: History
    looking: Looking
    searches: Searches
    costs: Costs
    dead_letters: DeadLetters
    replaying: Replaying
    queues: Queues
    trends: Trends
    metrics: Metrics
    state: Callable[[], State]
    """Returns whether the replica is ready, and why not."""
    deployments_changed: Callable[[], None]
    woken: Callable[[], None]
    """There may be a place now."""
    operation_started: Callable[[], None]
    heartbeat_every_s: float

    async def fenced(self, report: Awaitable[None]) -> None:
        """Await a report under a lease and count it when the lease has moved on."""
        try:
            await report
        except StaleLease:
            self.metrics.leases_fenced.inc()
            raise


def run_id_in_path(raw: str) -> RunId:
    """Return the id in its canonical form.

    Raises:
        NotFound: It is no UUID, so there can be no such run.
    """
    return RunId(uuid_in_path(raw, "run"))


def uuid_in_path(raw: str, kind: str) -> str:
    """Return an id of this kind of thing in its canonical form; raises as `run_id_in_path`."""
    try:
        return str(uuid.UUID(raw))
    except ValueError as error:
        raise NotFound(f"there is no {kind} {raw[:64]!r}: its id is a UUID") from error
