"""Postgres as a dependency: migrated when it is first there, then asked for time and schema."""

from __future__ import annotations

import asyncio

import psycopg
from psycopg.rows import dict_row

from bpa.clocks import Clocks, of_round_trip
from bpa.errors import StartupError, Unavailable
from bpa.postgres import (
    BoundedConnection,
    Connection,
    Pool,
    conninfo,
    load_queries,
    migrate,
    newest_migration,
    translated,
)

_QUERIES = load_queries(__file__)
_STATEMENT_TIMEOUT_S = 5


class Database:
    """What readiness knows of Postgres, over a connection of its own.

    Its own, since a pool that is exhausted or broken says neither whether Postgres is there nor
    why not.

    Args:
        dsn: The connection string.
        application_name: Who we are.
        namespace: The name that run ids are made of.
        pool: Everybody else's connections; checked when Postgres comes back.
        clocks: Where Postgres's time is told.
    """

    def __init__(
        self, dsn: str, application_name: str, namespace: str, pool: Pool, clocks: Clocks
    ) -> None:
        self.prepared = asyncio.Event()
        """Set once the schema is in place and the namespace is ours."""
        self._dsn = dsn
        self._application_name = application_name
        self._namespace = namespace
        self._pool = pool
        self._clocks = clocks
        self._connection: Connection | None = None
        self._newest = newest_migration()

    async def look(self) -> None:
        """Prepare the database if that is still to be done; ask for its time and its schema.

        Raises:
            Unavailable: It is away, or its schema is older than ours.
            StartupError: A migration fails, or the database belongs to another namespace.
        """
        if not self.prepared.is_set():
            await migrate(self._dsn)
        try:
            with translated():
                await self._ask()
        except psycopg.errors.UndefinedTable as error:
            raise Unavailable(
                "the database has lost its tables: restore it, or restart control to begin anew"
            ) from error
        except Unavailable:
            await self.aclose()  # the next look connects anew
            raise

    async def aclose(self) -> None:
        """Disconnect."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _ask(self) -> None:
        connection = self._connection
        if connection is None:
            connection = self._connection = await BoundedConnection.connect(
                conninfo(
                    self._dsn,
                    f"{self._application_name}-ready",
                    statement_timeout_s=_STATEMENT_TIMEOUT_S,
                ),
                autocommit=True,
                row_factory=dict_row,
            )
            await self._pool.check()  # what broke with Postgres is nobody's to stumble over
        if not self.prepared.is_set():
            await self._claim(connection)
        sent_s = self._clocks.now_s()
        row = await (await connection.execute(_QUERIES.look)).fetchone()
        assert row is not None
        answer = of_round_trip(sent_s, self._clocks.now_s(), row["now_s"])
        self._clocks.heard("Postgres's", answer)
        if row["version"] < self._newest:
            raise Unavailable(
                f"the schema is at {row['version']:04}, older than ours: restart control to "
                "bring it forward"
            )
        self.prepared.set()

    async def _claim(self, connection: Connection) -> None:
        await connection.execute(_QUERIES.claim_namespace, {"namespace": self._namespace})
        row = await (await connection.execute(_QUERIES.namespace)).fetchone()
        assert row is not None
        if row["namespace"] != self._namespace:
            raise StartupError(
                f"this database holds the runs of the namespace {row['namespace']!r}, and "
                f"{self._namespace!r} is configured: a message that comes again would become "
                "another run, and be worked on twice. If both names mean one namespace (an "
                f"alias), set service_bus.namespace to {row['namespace']!r}; for another "
                "namespace take a database of its own"
            )
