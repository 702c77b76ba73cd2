"""The statements of many callers in one round trip and one commit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from bpa.batching import Batcher
from bpa.errors import Unavailable
from bpa.postgres.connections import Pool, taken, translated
from bpa.postgres.queries import load_queries

_QUERIES = load_queries(__file__)

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Statement:
    query: LiteralString
    values: dict[str, object]
    runs: frozenset[str]


class Pipeline:
    """Executes what arrives while a round trip is under way with the next one.

    The statements of a round trip are one transaction: they share its commit, which is most of what
    a small write costs. Each of them must hold by itself, whatever else is in the round trip. When
    one fails, none has happened; then each is executed alone, so that only its caller hears of it.

    The runs that any of them writes are locked before the first of them, in one order, so that two
    round trips never wait for each other; and each statement sees what was committed until then.

    Args:
        pool: Connections to Postgres.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._batcher: Batcher[_Statement, Rows] = Batcher(self._execute, max_batch=32)

    async def fetch_all(
        self, query: LiteralString, *, lock: Iterable[str] = (), **values: object
    ) -> Rows:
        """Execute ``query`` and return its rows once they are committed.

        Args:
            query: One statement.
            lock: The ids of the runs that it writes, or whose leases or steps it writes.
            values: Its parameters.

        Raises:
            Unavailable: Postgres is away.
        """
        return await self._batcher.submit(_Statement(query, values, frozenset(lock)))

    async def aclose(self) -> None:
        """Execute what was submitted and take nothing more."""
        await self._batcher.aclose()

    async def _execute(self, statements: list[_Statement]) -> list[Rows | Exception]:
        if len(statements) > 1:
            try:
                with translated():
                    return [*await self._together(statements)]
            except psycopg.Error:
                pass  # one of them is wrong: told apart below
            except Unavailable as error:
                if not isinstance(error.__cause__, psycopg.errors.DeadlockDetected):
                    raise  # a deadlock has undone all of it, and each alone locks less
        return [await self._alone(statement) for statement in statements]

    async def _together(self, statements: list[_Statement]) -> list[Rows]:
        runs = frozenset[str]().union(*(statement.runs for statement in statements))
        async with taken(self._pool) as connection:
            async with connection.pipeline():
                if runs:
                    await connection.execute(_QUERIES.lock_runs, {"run_ids": sorted(runs)})
                cursors = [
                    await connection.execute(statement.query, statement.values)
                    for statement in statements
                ]
            return [await c.fetchall() if c.description else [] for c in cursors]

    async def _alone(self, statement: _Statement) -> Rows | Exception:
        try:
            with translated():
                [rows] = await self._together([statement])
        except (psycopg.Error, Unavailable) as error:
            return error
        return rows
