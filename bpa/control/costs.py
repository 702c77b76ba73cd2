"""Costs: the ledger's sums, read from the steps that ``runs`` writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, LiteralString

from bpa.control.cursors import cursor_of_numbered, read_numbered
from bpa.control.ledger import LINES_MAX, PAGED, By, Chosen, Sums, with_completed
from bpa.errors import InvalidRequest
from bpa.postgres import Pool, fetch_all, load_queries

_QUERIES = load_queries(__file__)
_KEYS: Mapping[By, LiteralString] = {
    By.RUN: _QUERIES.by_run,
    By.ATTEMPT: _QUERIES.by_attempt,
    By.AGENT: _QUERIES.by_agent,
    By.DEPLOYMENT: _QUERIES.by_deployment,
    By.MODEL: _QUERIES.by_model,
    By.DAY: _QUERIES.by_day,
}
_ORDERS: Mapping[By, LiteralString] = {
    By.RUN: _QUERIES.page_of_runs,
    By.ATTEMPT: _QUERIES.page_of_attempts,
    By.DAY: _QUERIES.days_newest_first,
}
_AFTER: Mapping[By, LiteralString] = {
    By.RUN: _QUERIES.after_run,
    By.ATTEMPT: _QUERIES.after_attempt,
}
_SAMPLE = 10_000
"""Runs of a deployment that percentiles are taken of at least, where there are so many."""


class Costs:
    """The sums of the ledger.

    Args:
        pool: Connections to Postgres.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def sums(
        self, by: By, chosen: Chosen, *, cursor: str | None = None, limit: int = LINES_MAX
    ) -> Sums:
        """Return the sums, a row each, with the runs that completed in the same time.

        Runs, attempts and days come newest first, others dearest first. Of a page, which has no
        total, runs that completed are not counted.

        Raises:
            InvalidRequest: The cursor is none of ours, or these sums have no pages.
            Unavailable: Postgres is away.
        """
        if cursor and by not in PAGED:
            raise InvalidRequest(f"costs by {by} have no pages; ask without a cursor")
        after_run, after_epoch = read_numbered(cursor) if cursor else (None, None)
        rows = await fetch_all(
            self._pool,
            _statement(by, chosen, is_next=after_run is not None),
            **asdict(chosen),
            after_run=after_run,
            after_epoch=after_epoch,
            limit=limit + 1 if by in PAGED else LINES_MAX,
        )
        following = None
        if by in PAGED and len(rows) > limit:
            last = rows[limit - 1]
            # of a run as a whole, no execution is left for the next page
            following = cursor_of_numbered(last["key"], last["epoch"] or 0)
            rows = rows[:limit]
        completed = {} if cursor or following else await self._completed(by, chosen)
        return Sums(
            rows=[
                with_completed(row, None if by in PAGED else completed.get(row["key"], 0))
                for row in rows
            ],
            completed=sum(completed.values()),
            following=following,
        )

    async def _completed(self, by: By, chosen: Chosen) -> dict[str | None, int]:
        rows = await fetch_all(self._pool, _QUERIES.completions, by=by.value, **asdict(chosen))
        return {row["key"]: int(row["completed"]) for row in rows}

    async def budget_use(self, chosen: Chosen) -> list[dict[str, Any]]:
        """Return what the runs of each deployment used that ended in the time, most runs first.

        Where there are over ``2 * _SAMPLE`` of them, p50 and p95 are those of a sample of
        ``_SAMPLE`` or more; the most that one used and all counts are exact.

        Raises:
            Unavailable: Postgres is away.
        """
        values = asdict(chosen)
        return await fetch_all(
            self._pool, _QUERIES.budget_use, **values, sample=_SAMPLE, limit=LINES_MAX
        )


def _statement(by: By, chosen: Chosen, *, is_next: bool = False) -> LiteralString:
    whose = [_QUERIES.chosen_runs] if chosen.agent or chosen.deployment else []
    if by in PAGED:
        lines = _QUERIES.lines_with_runs if whose else _QUERIES.lines
    else:
        asks_for_runs = whose or by in (By.AGENT, By.DEPLOYMENT)
        lines = _QUERIES.lines_of_all if asks_for_runs else _QUERIES.lines
    after = [_AFTER[by]] if is_next else []
    order = _ORDERS.get(by, _QUERIES.dearest_first)
    return "\n".join([_KEYS[by], _QUERIES.sums, lines, _QUERIES.chosen, *whose, *after, order])
