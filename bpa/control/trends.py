"""Trends: how the last hour went, minute by minute, and what lives now.

Read from runs alone, so that every replica says the same and a restart forgets nothing. A message
counts as arrived from when the broker had it, which is known once it was received.
"""

from __future__ import annotations

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
