"""Connections with our session settings, the pool of them, and their errors translated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

from bpa.errors import StartupError, Unavailable

Connection = AsyncConnection[DictRow]
Pool = AsyncConnectionPool[Connection]

STATEMENT_TIMEOUT_S = 30
CONNECT_TIMEOUT_S = 5


@contextmanager
def translated() -> Iterator[None]:
    """Raise :class:`~bpa.errors.Unavailable` where Postgres is away, overloaded or read-only.

    That takes in a lost or refused connection, an exhausted pool, a statement over its time, a
    deadlock and a serialisation failure: each may succeed when tried again. A constraint's
    violation and a wrong statement pass through as they are.
    """
    try:
        yield
    except (psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex):
        raise  # an OperationalError by class, but it will fail for ever
    except (
        psycopg.OperationalError,
        psycopg.InterfaceError,
        psycopg.errors.ReadOnlySqlTransaction,
    ) as error:
        raise Unavailable(f"Postgres does not answer: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Cut a server's message to its first line; the others may quote data."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


async def open_pool(
    dsn: str,
    *,
    min_size: int = 2,
    max_size: int = 10,
    application_name: str,
    timeout_s: float = CONNECT_TIMEOUT_S,
) -> Pool:
    """Open a pool and wait until its first ``min_size`` connections stand.

    Connections are in autocommit (a transaction is asked for with ``conn.transaction()``), speak
    UTC, prepare a statement from its second use on, bound every statement to 30 s, and return rows
    as dicts; for typed rows ask the cursor: ``conn.cursor(row_factory=class_row(Run))``. A broken
    connection costs the caller who meets it an ``Unavailable`` and is then replaced. Opening, and
    later each wait for a free connection, is bounded to ``timeout_s``.

    Raises:
        Unavailable: Postgres cannot be reached within ``timeout_s``.
    """
    pool: Pool = AsyncConnectionPool(
        conninfo(dsn, application_name, statement_timeout_s=STATEMENT_TIMEOUT_S),
        connection_class=AsyncConnection[DictRow],
        kwargs={"autocommit": True, "row_factory": dict_row, "prepare_threshold": 1},
        min_size=min_size,
        max_size=max_size,
        name=application_name,
        timeout=timeout_s,
        open=False,
    )
    with translated():
        try:
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
