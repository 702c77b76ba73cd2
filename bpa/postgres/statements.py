"""Run one named statement on a pooled connection, with its errors translated."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg.errors

from bpa.errors import Unavailable
from bpa.postgres.connections import Pool, taken, translated
from bpa.postgres.queries import load_queries

_QUERIES = load_queries(__file__)


async def fetch_all(pool: Pool, query: LiteralString, **values: object) -> list[dict[str, Any]]:
    """Execute ``query`` and return its rows.

    Raises:
        Unavailable: Postgres is away.
    """
    with translated():
        async with taken(pool) as connection:
            cursor = await connection.execute(query, values)
            return await cursor.fetchall() if cursor.description else []


async def fetch_one(pool: Pool, query: LiteralString, **values: object) -> dict[str, Any] | None:
    """Execute ``query`` and return its first row, if there is one.

    Raises:
        Unavailable: Postgres is away.
    """
    rows = await fetch_all(pool, query, **values)
    return rows[0] if rows else None


async def fetch_within(
    pool: Pool,
    query: LiteralString,
    time_s: float,
    *,
    bitmaps: bool | None = None,
    **values: object,
) -> list[dict[str, Any]] | None:
    """Execute ``query`` and return its rows; None if the server had no answer within ``time_s``.

    It is planned for these very values each time: what reads few rows with one value may read all
    of them with another.

    Args:
        pool: Connections to Postgres.
        query: One statement.
        time_s: Seconds that it may take.
        bitmaps: Whether all that an index finds is gathered before the table is looked at (True,
            for what is known to match few rows) or never (False, for what is known to match many),
            where the planner guesses otherwise.
        values: Its parameters.

    Raises:
        Unavailable: Postgres is away.
    """
    try:
        with translated():
            async with taken(pool) as connection, connection.transaction():
                limit = {"time_ms": str(max(1, int(time_s * 1000)))}
                await connection.execute(_QUERIES.bound_time, limit)
                if bitmaps is not None:
                    await connection.execute(_QUERIES.by_bitmap if bitmaps else _QUERIES.in_order)
                cursor = await connection.execute(query, values, prepare=False)
                return await cursor.fetchall()
    except Unavailable as error:
        if isinstance(error.__cause__, psycopg.errors.QueryCanceled):
            return None
        raise
