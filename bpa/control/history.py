"""What is known of runs, for people: one whole, sums.

Reads only; ``searches`` lists runs, what happens to them is in ``runs``, and ``timeline`` makes one
story of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from bpa.domain.runs import RunId
from bpa.errors import NotFound
from bpa.postgres import Pool, fetch_all, fetch_one, load_queries

_QUERIES = load_queries(__file__)


class History:
    """The runs there are and were.

    Args:
        pool: Connections to Postgres.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def get(self, run_id: RunId) -> dict[str, Any]:
        """Return one run with all that is known of it.

        Raises:
            NotFound: There is no such run.
        """
        runs = await self.whole([run_id])
        if not runs:
            raise NotFound(f"there is no run {run_id}")
        (run,) = runs
        inputs = await fetch_one(self._pool, _QUERIES.message_of, run_id=run_id)
        links = await fetch_all(self._pool, _QUERIES.links_of, run_id=run_id)
        run["message"] = inputs and inputs["message"]
        run["links"] = links if len(links) > 1 else []
        return run

    async def whole(self, run_ids: Sequence[RunId]) -> list[dict[str, Any]]:
        """Return runs, those that there are, each with its attempts, steps and deliveries."""
        runs = await fetch_all(self._pool, _QUERIES.whole, run_ids=list(run_ids))
        by_id: dict[str, dict[str, Any]] = {run["run_id"]: run for run in runs}
        for name, query in (
            ("attempts", _QUERIES.attempts_of),
            ("steps", _QUERIES.steps_of),
            ("deliveries", _QUERIES.deliveries_of),
        ):
            for run in runs:
                run[name] = []
            for row in await fetch_all(self._pool, query, run_ids=[*by_id]):
                by_id[row.pop("run_id")][name].append(row)
        return runs

    async def totals(self, since: datetime | None = None) -> list[dict[str, Any]]:
        """Count runs by status and reason, with latency, tokens and cost; None is for all."""
        return await fetch_all(self._pool, _QUERIES.totals, since=since)
