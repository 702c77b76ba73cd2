"""Run one named statement on a pooled connection, with its errors translated."""

from __future__ import annotations

from typing import Any, LiteralString

from bpa.postgres.connections import Pool, taken, translated


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
