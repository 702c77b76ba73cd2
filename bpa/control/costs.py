"""Costs: the ledger's sums, read from the steps that ``runs`` writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, LiteralString

from bpa.control.cursors import cursor_of_numbered, read_numbered
from bpa.control.ledger import LINES_MAX, PAGED, By, Chosen
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


class Costs:
    """The sums of the ledger.

    Args:
        pool: Connections to Postgres.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def sums(
        self, by: By, chosen: Chosen, *, cursor: str | None = None, limit: int = LINES_MAX
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Return the sums, a row each, and the cursor of the next page of runs or attempts.

        Runs, attempts and days come newest first, others dearest first.

        Raises:
            InvalidRequest: The cursor is none of ours, or these sums have no pages.
            Unavailable: Postgres is away.
        """
        if cursor and by not in PAGED:
            raise InvalidRequest(f"costs by {by} have no pages; ask without a cursor")
        after_run, after_epoch = read_numbered(cursor) if cursor else (None, None)
        rows = await fetch_all(
            self._pool,
            _statement(by, chosen),
            since=chosen.since,
            until=chosen.until,
            agent=chosen.agent,
            deployment=chosen.deployment,
            model=chosen.model,
            after_run=after_run,
            after_epoch=after_epoch,
            limit=limit + 1 if by in PAGED else LINES_MAX,
        )
        if by not in PAGED or len(rows) <= limit:
            return rows, None
        last = rows[limit - 1]
        # of a run as a whole, no execution is left for the next page
        return rows[:limit], cursor_of_numbered(last["key"], last["epoch"] or 0)


def _statement(by: By, chosen: Chosen) -> LiteralString:
    asks_for_runs = by in (By.AGENT, By.DEPLOYMENT) or chosen.agent or chosen.deployment
    order = _QUERIES.newest_first if by in PAGED | {By.DAY} else _QUERIES.dearest_first
    parts = [_KEYS[by], _QUERIES.sums, *([_QUERIES.of_runs] if asks_for_runs else [])]
    return "\n".join([*parts, _QUERIES.chosen, order])
