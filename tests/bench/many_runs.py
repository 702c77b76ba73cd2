"""A cluster with many runs: made in a minute or two, and kept where it is asked for.

Most runs lie in the last thirty days and many in the last hour, as of a fleet that is busy. A
cluster that was kept gets a new last hour, so that it is as many more.
"""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from bpa.embedded.postgres import EmbeddedPostgres
from bpa.postgres import load_queries, migrate
from tests.bench.rounds import CONFIG, Note, progress

_QUERIES = load_queries(__file__)
_FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_size": "4GB",
    "shared_buffers": "512MB",
    "maintenance_work_mem": "512MB",
}
_OF_LAST_HOUR = 0.06
"""Which part of the runs came in the last hour: of a million, 17 a second."""
_WAITING = 500
_STALE_S = 900.0
"""After which the last hour is made anew."""

Connection = psycopg.AsyncConnection[dict[str, Any]]


async def filled(folder: Path, arguments: argparse.Namespace, note: Note) -> Path:
    """Return the folder of a server with ``arguments.runs`` runs; they are put there if need be."""
    folder = arguments.keep or folder / "many"
    await _fill(folder / "data", arguments.runs, note)
    return folder


async def _fill(data_dir: Path, many: int, note: Note) -> None:
    async with EmbeddedPostgres(data_dir, settings=_FAST) as postgres:
        await migrate(postgres.dsn)
        async with await psycopg.AsyncConnection.connect(
            postgres.dsn, autocommit=True, row_factory=dict_row
        ) as connection:
            await connection.execute(_QUERIES.hasten)
            age = await (await connection.execute(_QUERIES.age)).fetchone()
            assert age is not None
            of_last_hour = int(many * _OF_LAST_HOUR)
            began = time.monotonic()
            if age["runs"] < many * 0.99:  # it is an estimate
                await _all(connection, many - of_last_hour, of_last_hour)
                note("runs in Postgres, s to put them there", time.monotonic() - began)
            elif age["newest_s"] > _STALE_S:
                now = datetime.now(UTC)
                since = now - timedelta(seconds=min(age["newest_s"], 3600))
                await _some(connection, of_last_hour, since, now)
            await connection.execute(_QUERIES.analyze)


async def _all(connection: Connection, of_old: int, of_last_hour: int) -> None:
    target = (CONFIG / "deployments" / "invoice-classifier-dev.json").read_text("utf-8")
    now = datetime.now(UTC)
    hour_ago = now - timedelta(hours=1)
    async with connection.transaction():
        await connection.execute(_QUERIES.bare)
        await connection.execute(_QUERIES.deployed, {"target": target})
        await _some(connection, of_old, hour_ago - timedelta(days=30), hour_ago)
        await _some(connection, of_last_hour, hour_ago, now)
        rows = await (await connection.execute(_QUERIES.indexes)).fetchall()
        for row in rows:
            progress(f"index {row['definition'].split()[2 + ('UNIQUE' in row['definition'])]}")
            definition: LiteralString = row["definition"]
            await connection.execute(definition)


async def _some(connection: Connection, many: int, since: datetime, until: datetime) -> None:
    """Add runs of a time; of those that came last some still wait."""
    values = {"many": many, "since": since, "until": until, "salt": str(until)}
    waiting = _WAITING if until - since <= timedelta(hours=1) else 0
    for name in ("runs", "history", "replayed"):
        progress(f"{name} since {since:%d %B, %H:%M}, {many:,}")
        await connection.execute(getattr(_QUERIES, name), {**values, "waiting": waiting})
