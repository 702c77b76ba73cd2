"""Bring the schema forward: numbered files, each applied once, never changed afterwards."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from bpa.errors import StartupError
from bpa.postgres.connections import conninfo, first_line, translated
from bpa.postgres.queries import load_queries

MIGRATIONS = Path(__file__).parent.parent / "migrations"

_LOCK = 0x0B9A  # the advisory lock's key: any number that nobody else uses
_LOCK_TIMEOUT_S = 60


class _Migration(NamedTuple):
    version: int
    name: str
    checksum: str
    text: str


_FILE = re.compile(r"(?P<version>\d{4})_[a-z0-9_]+\.sql")


async def migrate(dsn: str, directory: Path = MIGRATIONS) -> list[str]:
    """Bring the schema forward with the files ``NNNN_name.sql`` of ``directory``.

    Each file is applied once, in a transaction of its own that also records its checksum, under an
    advisory lock, so that two starters do not race. Versions that only the database knows are a
    newer release's and are left alone.

    Returns:
        The names of the files that were applied now, in order.

    Raises:
        StartupError: An applied file has changed since, a new one is numbered below an applied
            one, a name is malformed or a number taken twice, or the SQL of one fails.
        Unavailable: Postgres is away, or another starter holds the lock for over 60 s.
    """
    queries = load_queries(__file__)
    with translated():
        async with await AsyncConnection.connect(
            conninfo(dsn, "bpa-migrate", statement_timeout_s=0),
            autocommit=True,
            prepare_threshold=None,
        ) as connection:
            await connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT_S}s'")
            await connection.execute(queries.lock_migrations, {"key": _LOCK})
            await connection.execute(queries.create_migrations)
            async with connection.cursor(row_factory=dict_row) as cursor:
                applied = await (await cursor.execute(queries.applied_migrations)).fetchall()
            pending = _pending(
                _read_migrations(directory), {row["version"]: row["checksum"] for row in applied}
            )
            for migration in pending:
                await _apply(connection, migration, queries.record_migration)
            return [migration.name for migration in pending]


def newest_migration(directory: Path = MIGRATIONS) -> int:
    """Return the version that ``migrate`` brings the schema to."""
    return max((migration.version for migration in _read_migrations(directory)), default=0)


def _read_migrations(directory: Path) -> list[_Migration]:
    migrations: dict[int, _Migration] = {}
    for path in sorted(directory.glob("*.sql")):
        match = _FILE.fullmatch(path.name)
        if match is None:
            raise StartupError(f"Rename the migration {path.name}: it must read NNNN_name.sql.")
        content = path.read_bytes()
        version = int(match["version"])
        if version in migrations:
            raise StartupError(
                f"Renumber {path.name}: {migrations[version].name} has its number already."
            )
        checksum = hashlib.sha256(content).hexdigest()
        migrations[version] = _Migration(version, path.name, checksum, content.decode())
    return list(migrations.values())


def _pending(migrations: list[_Migration], applied: dict[int, str]) -> list[_Migration]:
    for migration in migrations:
        if applied.get(migration.version, migration.checksum) != migration.checksum:
            raise StartupError(
                f"The migration {migration.name} has changed since it was applied: restore it and"
                " put the change into a new file."
            )
    pending = [migration for migration in migrations if migration.version not in applied]
    newest = max(applied, default=0)
    if pending and pending[0].version < newest:
        raise StartupError(
            f"Renumber the migration {pending[0].name}: {newest:04} is applied already and"
            " migrations go forward only."
        )
    return pending


async def _apply(
    connection: AsyncConnection[Any], migration: _Migration, record: LiteralString
) -> None:
    try:
        async with connection.transaction():
            await connection.execute(migration.text.encode())
            await connection.execute(
                record,
                {
                    "version": migration.version,
                    "name": migration.name,
                    "checksum": migration.checksum,
                },
            )
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        raise StartupError(f"The migration {migration.name} fails: {first_line(error)}") from error
