"""Connections with our session settings, the pool of them, and their errors translated."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

from bpa.cancellation import cancellation_delivered
from bpa.errors import StartupError, Unavailable

Connection = AsyncConnection[DictRow]
Pool = AsyncConnectionPool[Connection]

STATEMENT_TIMEOUT_S = 8
ANSWER_TIMEOUT_S = 10.0
"""A server that is frozen or cut off keeps no timeout of its own: after this we hang up."""
CONNECT_TIMEOUT_S = 5
_GIVE_UP_S = 5.0
"""How long the pool tries to replace a connection before it waits to be asked again. Its pauses
double without an end, so without this a long outage would outlast itself by as much."""
_STALE_PLAN = "cached plan must not change result type"
_REFUSAL = re.compile(
    r"password|authentication|pg_hba|does not exist|permission denied|support SSL|certificate",
    re.IGNORECASE,
)


class BoundedConnection(AsyncConnection[DictRow]):
    """A connection on which no wait for the server lasts longer than 10 s.

    The socket is shut then, which ends the wait with an error of the driver's own. To cancel the
    wait instead would not end it: the driver first asks the server to cancel, and waits for that.
    """

    async def wait(self, *args: Any, **options: Any) -> Any:
        """Wait for the server; as the driver's own."""
        hung_up = False

        def hang_up() -> None:
            nonlocal hung_up
            hung_up = True
            with (
                suppress(OSError, psycopg.Error),
                socket.socket(fileno=os.dup(self.fileno())) as shared,
            ):
                shared.shutdown(socket.SHUT_RDWR)

        limit = asyncio.get_running_loop().call_later(ANSWER_TIMEOUT_S, hang_up)
        try:
            return await super().wait(*args, **options)
        except psycopg.OperationalError as error:
            if hung_up:
                message = f"no answer within {ANSWER_TIMEOUT_S:g} s"
                raise psycopg.OperationalError(message) from error
            raise
        finally:
            limit.cancel()


@asynccontextmanager
async def taken(pool: Pool) -> AsyncIterator[Connection]:
    """Lend a connection of the pool; one that prepared statements for an older schema is closed.

    A release that is rolled out adds columns under replicas that are still at work, and what they
    prepared would fail for as long as the connection lives.
    """
    async with pool.connection() as connection:
        try:
            yield connection
        except psycopg.errors.FeatureNotSupported:
            await connection.close()
            raise


@contextmanager
def translated() -> Iterator[None]:
    """Raise :class:`~bpa.errors.Unavailable` where Postgres is away, overloaded or read-only.

    That takes in a lost or refused connection, an exhausted pool, a statement over its time, a
    deadlock and a serialisation failure, a schema that has just changed: each may succeed when
    tried again. A constraint's violation and a wrong statement pass through as they are. A
    cancellation that the pool swallows is raised.
    """
    try:
        with cancellation_delivered():
            yield
    except psycopg.errors.FeatureNotSupported as error:
        if _STALE_PLAN not in str(error):
            raise
        raise Unavailable("Postgres has just got another schema; try again") from error
    except (psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex):
        raise  # an OperationalError by class, but it will fail for ever
    except (
        psycopg.OperationalError,
        psycopg.InterfaceError,
        psycopg.errors.ReadOnlySqlTransaction,
    ) as error:
        raise Unavailable(_why(error)) from error


def _why(error: psycopg.Error) -> str:
    """Tell an outage from a refusal, which somebody has to mend."""
    line = first_line(error)
    if isinstance(error, psycopg.errors.QueryCanceled):
        return (
            "Postgres had no answer in time; try again, and where much was asked for, ask for "
            "less, such as a shorter time"
        )
    if isinstance(error, psycopg.OperationalError) and _REFUSAL.search(line):
        return f"Postgres refuses the connection; mend postgres.dsn or the server: {line}"
    return f"Postgres does not answer: {line}"


def first_line(error: BaseException) -> str:
    """Cut a server's message to its first line; the others may quote data."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def pool_of(
    dsn: str,
    *,
    min_size: int = 2,
    max_size: int = 10,
    application_name: str,
    timeout_s: float = CONNECT_TIMEOUT_S,
) -> Pool:
    """Return a pool that is not open yet; to open it needs no Postgres (``open(wait=False)``).

    Connections are in autocommit (a transaction is asked for with ``conn.transaction()``), speak
    UTC, prepare a statement from its second use on, bound every statement to 8 s and each wait for
    the server to 10 s, and return rows as dicts; for typed rows ask the cursor:
    ``conn.cursor(row_factory=class_row(Run))``. A broken connection costs the caller who meets it
    an ``Unavailable`` and is then replaced. Each wait for a free connection is bounded to
    ``timeout_s``.

    Raises:
        StartupError: The connection string cannot be read.
    """
    return AsyncConnectionPool(
        conninfo(dsn, application_name, statement_timeout_s=STATEMENT_TIMEOUT_S),
        connection_class=BoundedConnection,
        kwargs={"autocommit": True, "row_factory": dict_row, "prepare_threshold": 1},
        min_size=min_size,
        max_size=max_size,
        name=application_name,
        timeout=timeout_s,
        reconnect_timeout=_GIVE_UP_S,
        open=False,
    )


async def open_pool(dsn: str, *, timeout_s: float = CONNECT_TIMEOUT_S, **options: Any) -> Pool:
    """Open a pool and wait until its first connections stand; as :func:`pool_of`.

    Raises:
        Unavailable: Postgres cannot be reached within ``timeout_s``.
    """
    pool = pool_of(dsn, timeout_s=timeout_s, **options)
    try:
        with translated():
            await pool.open(wait=True, timeout=timeout_s)
    except BaseException:
        await pool.close()
        raise
    return pool


def conninfo(dsn: str, application_name: str, *, statement_timeout_s: int) -> str:
    """Add our session settings to ``dsn``, after its own options and never over its timeouts.

    Raises:
        StartupError: It is no connection string; none of it is repeated, since it holds a password.
    """
    try:
        given = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        raise StartupError(
            "postgres.dsn cannot be read: write postgresql://user:password@host:5432/database, "
            "special characters percent-encoded"
        ) from None
    own = f"-c TimeZone=UTC -c statement_timeout={statement_timeout_s * 1000}"
    defaults: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "application_name": application_name,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,
    }
    options = f"{own} {given.get('options') or ''}".strip()
    return make_conninfo("", **(defaults | given | {"options": options}))
