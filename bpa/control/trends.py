"""Trends: how the last hour went, minute by minute, and what lives now.

Read from runs alone, so that every replica says the same and a restart forgets nothing. A message
counts as arrived from when the broker had it, which is known once it was received.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from bpa.postgres import Pool, fetch_all, load_queries
from bpa.shelf import Shelf

STEP_S = 60
_AN_HOUR = timedelta(hours=1)
_QUERIES = load_queries(__file__)


@dataclass(frozen=True, slots=True)
class Trend:
    """What happened since a time; rows by ``at``, the start of their minute. Minutes may lack."""

    since: datetime
    arrived: list[dict[str, Any]]
    """``at, arrived``."""
    ended: list[dict[str, Any]]
    """``at, completed, dead_lettered, p50_ms, p95_ms, p99_ms, cost_usd``."""
    overall: dict[str, Any]
    """The same over all of it."""


@dataclass(frozen=True, slots=True)
class Lag:
    """Messages that have not become anything yet."""

    unreceived: int
    """In a queue and in no run's hands, as of the last readings."""
    runs: int
    """That have not ended."""
    oldest_at: datetime | None
    """When the oldest one in a queue came, where that is known."""

    @property
    def messages(self) -> int:
        """All of them."""
        return self.unreceived + self.runs


class Trends:
    """The runs of late, summed up.

    Args:
        pool: Connections to Postgres.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._kept: Shelf[Trend] = Shelf()

    async def last_hour(self) -> Trend:
        """Return how the last hour went, which with many runs may be some seconds ago.

        Raises:
            Unavailable: Postgres is away.
        """
        return await self._kept.get("last hour", self._sum_up)

    async def _sum_up(self) -> Trend:
        since = datetime.now(UTC) - _AN_HOUR
        asked = {"since": since, "step_s": STEP_S}
        arrived = await fetch_all(self._pool, _QUERIES.arrived, **asked)
        ended = await fetch_all(self._pool, _QUERIES.ended, **asked)
        overall = next(row for row in ended if row["at"] is None)
        return Trend(since, arrived, [row for row in ended if row["at"] is not None], overall)

    async def alive(self) -> list[dict[str, Any]]:
        """Count living runs by status and by what they wait for, the most first."""
        return await fetch_all(self._pool, _QUERIES.alive)


def minutes_of(trend: Trend, now: datetime) -> list[datetime]:
    """Return the starts of all minutes from the trend's first to ``now``; pure."""
    first = trend.since - timedelta(seconds=trend.since.timestamp() % STEP_S)
    steps = int((now - first).total_seconds() // STEP_S) + 1
    return [(first + timedelta(seconds=STEP_S * n)).replace(microsecond=0) for n in range(steps)]


def backlog_of(trend: Trend, minutes: Sequence[datetime], lag: Lag) -> list[int]:
    """Return what was in a queue or at work at the end of each minute, counted back from now; pure.

    Args:
        trend: What arrived and ended.
        minutes: As :func:`minutes_of` has them.
        lag: What there is now.
    """
    arrived = {row["at"]: row["arrived"] for row in trend.arrived}
    ended = {row["at"]: row["completed"] + row["dead_lettered"] for row in trend.ended}
    level, unreceived, levels = lag.messages, lag.unreceived, []
    for minute in reversed(minutes):
        # when each of those unreceived came is not known: none before the oldest
        if unreceived and lag.oldest_at and minute + timedelta(seconds=STEP_S) <= lag.oldest_at:
            level, unreceived = level - unreceived, 0
        levels.append(max(0, level))
        level += ended.get(minute, 0) - arrived.get(minute, 0)
    return levels[::-1]
