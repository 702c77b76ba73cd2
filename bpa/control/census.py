"""The census: what the fleet is, counted in Postgres at intervals by every replica alike."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog
from prometheus_client import Gauge

from bpa.errors import Unavailable
from bpa.postgres import Pool, fetch_all, load_queries
from bpa.telemetry.metrics import Metrics

_QUERIES = load_queries(__file__)
_EVERY_S = 5.0
_GONE_AFTER_S = 900.0
_log = structlog.stdlib.get_logger(__name__)


class Census:
    """Counts nodes and leases.

    While Postgres is away the last count stands: `bpa_ready` says that it does.

    Args:
        pool: Connections to Postgres.
        metrics: Where the counts are shown.
        silent_after_s: A node that is closing and was not heard of for longer has left.
        gone_after_s: A node that was not heard of for longer is shown no more, unless it holds
            leases.
    """

    def __init__(
        self,
        pool: Pool,
        metrics: Metrics,
        *,
        silent_after_s: float,
        gone_after_s: float = _GONE_AFTER_S,
    ) -> None:
        self._pool = pool
        self._leases_active = metrics.leases_active
        self._gauges: Mapping[str, Gauge] = {
            "slots": metrics.slots_capacity,
            "leases": metrics.slots_used,
            "heartbeat_age_s": metrics.heartbeat_age_s,
            "drain_overdue_s": metrics.drain_overdue_s,
        }
        self._terms = {"silent_after_s": silent_after_s, "gone_after_s": gone_after_s}
        self._shown: set[str] = set()

    async def run(self) -> None:
        """Count until cancelled."""
        is_away = False
        while True:
            try:
                await self.one_pass()
                is_away = False
            except Unavailable as error:
                if not is_away:
                    _log.warning("census_waits", error=str(error))
                is_away = True
            await asyncio.sleep(_EVERY_S)

    async def one_pass(self) -> int:
        """Count once; return how many nodes there are.

        Raises:
            Unavailable: Postgres is away.
        """
        rows = await fetch_all(self._pool, _QUERIES.nodes, **self._terms)
        self._leases_active.set(sum(row["leases"] for row in rows))
        for row in rows:
            self._show(row)
        here = {row["node_id"] for row in rows}
        for node_id in self._shown - here:
            for gauge in self._gauges.values():
                gauge.remove(node_id)
        self._shown = here
        return len(rows)

    def _show(self, row: Mapping[str, Any]) -> None:
        for column, gauge in self._gauges.items():
            gauge.labels(row["node_id"]).set(row[column])
