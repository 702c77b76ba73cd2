"""What every queue holds and has done, for the page of counts, its live view and the metrics."""

from __future__ import annotations

from collections import Counter

import msgspec

from .broker import Broker
from .queue import DEAD_LETTER_SUFFIX


class QueueCounts(msgspec.Struct, frozen=True):
    """One queue and its dead letters; also an entry of ``GET /queues``."""

    name: str
    status: str
    active: int
    locked: int
    scheduled: int
    deferred: int
    dead_lettered: int
    incoming: int
    """Since the start, as the rest."""
    outgoing: int
    settled: dict[str, int]
    """By outcome."""


class Page(msgspec.Struct, frozen=True):
    """The answer of ``GET /queues``."""

    queues: list[QueueCounts]


def page(broker: Broker) -> Page:
    """Count all queues as they are now."""
    return Page([_count(broker, path) for path in broker.entities])


def _count(broker: Broker, path: str) -> QueueCounts:
    queue, dead = broker.queues[path], broker.queues[path + DEAD_LETTER_SUFFIX]
    counts, letters = queue.counts(), dead.counts()
    return QueueCounts(
        name=broker.entities[path].config.name,
        status=queue.status.value,
        active=counts.active,
        locked=counts.locked,
        scheduled=counts.scheduled,
        deferred=counts.deferred,
        dead_lettered=letters.active + letters.locked + letters.deferred,
        incoming=queue.tally.incoming,
        outgoing=queue.tally.outgoing + dead.tally.outgoing,
        settled=dict(queue.tally.settled + Counter(dead.tally.settled)),
    )
