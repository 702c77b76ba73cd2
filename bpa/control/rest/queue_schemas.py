"""What REST says of queues."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from bpa.control.rest.schemas import Document, Time


class Queue(Document, frozen=True):
    """A queue that a deployment feeds from, and what was last read of it."""

    queue: str
    deployment_id: str
    """What feeds from it in this environment."""
    agent_id: str
    version: str
    measured_at: Time | None
    """When the numbers were true; null without any: not read yet, or there is no such queue."""
    reading_age_s: float | None
    """Since then, or since it is fed from without numbers; null in the first seconds of that."""
    active: int | None
    """Messages not settled yet: free, locked (received, in a run's hands) and deferred."""
    active_at_least: bool
    """There may be more: an estimate ends after the first messages of a queue."""
    scheduled: int | None
    """Messages that become active at a time of their own."""
    dead_letters: int | None
    dead_letters_at_least: bool
    estimated: bool
    """The counts come from peeking: the administration of the namespace did not tell."""
    oldest_enqueued_at: Time | None
    """When the oldest active message came, by the broker's clock; null if none waits or none is
    known."""
    oldest_age_s: float | None
    """How old it was at ``measuredAt``."""
    max_delivery_count: int | None
    """Null until the administration has told."""
    max_delivery_count_low: bool
    """It is below 10: the broker may dead-letter a message before the platform can say why."""
    trouble: str | None
    """What is wrong with the last reading: ``queue_not_found``; ``unreadable`` (the numbers are
    older); ``administration_refused``, ``administration_unreachable``, ``administration_not_set``
    (they are estimated); ``age_unknown``."""
    detail: str
    """The trouble in words."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Build it from its row."""
        return super().of({**row, "deployment_id": row["dep_id"]})
