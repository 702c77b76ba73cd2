"""What REST says of how things are and how the last hour went; the command line reads it too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from bpa.control.rest.queue_schemas import Queue
from bpa.control.rest.schemas import Document, Time
from bpa.control.trends import STEP_S, Lag, Trend, backlog_of, minutes_of

_PERCENTILES = ("p50", "p95", "p99")
_QUIET = {
    "completed": 0,
    "dead_lettered": 0,
    "cost_usd": "0",
    **{f"{p}_ms": None for p in _PERCENTILES},
}


class Alive(Document, frozen=True):
    """Living runs of one status that wait for the same."""

    status: str
    waits_for: str | None
    """Why those that are queued have no place yet, in words."""
    runs: int
    oldest_at: Time
    """When the first of them was received."""


class Period(Document, frozen=True):
    """Runs that ended in a time."""

    completed: int
    dead_lettered: int
    latency_p50_ms: float | None
    """From the broker to the end; null where none ended."""
    latency_p95_ms: float | None
    latency_p99_ms: float | None
    cost_usd: str
    """What they cost, an exact decimal."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Build it from a row of ``trends``."""
        return super().of({**row, **{f"latency_{p}_ms": row[f"{p}_ms"] for p in _PERCENTILES}})


class Minute(Period, frozen=True):
    """One minute."""

    at: Time
    """Its start; the first and the last one are parts."""
    arrived: int
    """Messages that the broker had in it, as far as they have been received."""
    backlog: int
    """Messages in a queue or in a run's hands at its end, counted back from now."""


class Trends(Document, frozen=True):
    """How the last hour went."""

    since: Time
    step_s: int
    overall: Period
    minutes: list[Minute]
    """Every one of them, the earliest first."""

    @classmethod
    def told(cls, trend: Trend, lag: Lag, now: datetime) -> Self:
        """Build it from what is counted."""
        minutes = minutes_of(trend, now)
        arrived = {row["at"]: row["arrived"] for row in trend.arrived}
        ended = {row["at"]: row for row in trend.ended}
        told = [
            Minute.of(
                ended.get(at, _QUIET)
                | {"at": at, "arrived": arrived.get(at, 0), "backlog": backlog}
            )
            for at, backlog in zip(minutes, backlog_of(trend, minutes, lag), strict=True)
        ]
        return cls(since=trend.since, step_s=STEP_S, overall=Period.of(trend.overall), minutes=told)


class Kind(StrEnum):
    """Why something needs somebody, the most urgent first."""

    DEAD_LETTERS = "dead_letters"
    TARGET_AWAY = "target_away"
    NODE_SILENT = "node_silent"
    QUEUE_UNREAD = "queue_unread"
    RUNS_WAIT = "runs_wait"


class Concern(Document, frozen=True):
    """Something that needs somebody."""

    kind: Kind
    subject: str
    """The queue, the target's host or the node; of runs that wait, what for."""
    title: str
    detail: str
    command: str
    """What shows more of it."""


class Status(Document, frozen=True):
    """What needs somebody, and where runs are."""

    at: Time
    concerns: list[Concern]
    unreceived: int
    """Messages that wait in the queues, as of their last reading."""
    alive: list[Alive]
    """Runs that have not ended, the most first."""
    last_hour: Period


def lag_of(queues: Sequence[Queue], alive: Sequence[Mapping[str, Any]]) -> Lag:
    """Return what has not ended, by the readings of queues and the rows of living runs.

    What is active in a queue includes what was received of it.
    """
    runs = sum(row["runs"] for row in alive)
    active = sum(queue.active or 0 for queue in queues)
    came = (queue.oldest_enqueued_at for queue in queues)
    return Lag(max(0, active - runs), runs, min(filter(None, came), default=None))
