"""A collector that is gone while 100,000 spans wait for it: memory, throughput, and their arrival.

The runs are copies of one that completed, written into Postgres: making as many takes longer.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from tests.bench.load import send_at_once
from tests.bench.receiver import counts_of, free_port, receiver
from tests.bench.rounds import Note, all_completed, server_in
from tests.e2e.server import Bpa
from tests.eventually import eventually

_SPANS = 100_000
_SPANS_PER_RUN = 9
_RUNS = _SPANS // _SPANS_PER_RUN + 1
_GONE_S = 45.0
"""Longer than the exporter's longest pause: it tries again and again meanwhile."""
_LOAD = 200
_COPIED = ("runs", "executions", "steps", "deliveries", "traces_due")
_CHANGED = {
    "run_id": "copy.run_id",
    "trace_id": "md5(copy.run_id::text)",
    "traceparent": "'00-' || md5(copy.run_id::text) || '-00f067aa0ba902b7-01'",
    "effect_key": "copy.run_id::text || ':1'",
    "due_at": "now()",
}
_COLUMNS = """
select column_name from information_schema.columns
where table_name = %s and is_generated = 'NEVER' and is_identity = 'NO'
"""


async def outlast(folder: Path, config: Path, arguments: argparse.Namespace, note: Note) -> None:
    """Note what control needs before, while and after its collector is gone."""
    del arguments
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    server = server_in(folder, config, telemetry__otlp_endpoint=endpoint)
    folder.mkdir()
    await server.start()
    try:
        async with receiver(port) as url:
            await _load(server, _LOAD, "there", note)
            await eventually(lambda: _has(url, _LOAD * _SPANS_PER_RUN), within_s=20)
        note("control, MiB (before)", _mib(server))
        await _copy(server, _RUNS)
        await _load(server, 2 * _LOAD, "gone", note)
        await _watched(server, asyncio.sleep(_GONE_S), "gone", note)
        async with receiver(port) as url:
            began = time.monotonic()
            arrived = eventually(
                lambda: _has(url, (_RUNS + _LOAD) * _SPANS_PER_RUN), within_s=300, every_s=1.0
            )
            await _watched(server, arrived, "back", note)
            note("100,000 spans have arrived after, s", time.monotonic() - began)
        note("control, MiB (after)", _mib(server))
    finally:
        await server.stop()


async def _load(server: Bpa, total: int, when: str, note: Note) -> None:
    began = await send_at_once(server, _LOAD, when)
    await all_completed(server, total + (_RUNS if when == "gone" else 0))
    note(f"runs/s (collector {when})", _LOAD / (time.monotonic() - began))


async def _copy(server: Bpa, count: int) -> None:
    """Write copies of a completed run, all of whose spans are due."""
    sockets = (server.data_dir / "postgres.sockets").read_text("utf-8")
    dsn = f"postgresql://bpa@/bpa?host={quote(sockets, safe='')}"
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        chosen = "select run_id from runs where status = 'completed' limit 1"
        await connection.execute(f"create temp table chosen as {chosen}")
        await connection.execute(
            "create temp table copy as select gen_random_uuid() as run_id"
            " from generate_series(1, %s)",
            [count],
        )
        await connection.execute(
            "insert into traces_due select run_id, now() from chosen on conflict do nothing"
        )
        for table in _COPIED:
            rows = await (await connection.execute(_COLUMNS, [table])).fetchall()
            columns = [name for (name,) in rows]
            values = [
                sql.SQL(_CHANGED[name]) if name in _CHANGED else sql.Identifier("t", name)
                for name in columns
            ]
            await connection.execute(
                sql.SQL(
                    "insert into {table} ({columns}) select {values} from {table} as t"
                    " join chosen using (run_id) cross join copy"
                ).format(
                    table=sql.Identifier(table),
                    columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
                    values=sql.SQL(", ").join(values),
                )
            )


async def _watched(server: Bpa, work: Awaitable[object], when: str, note: Note) -> None:
    """Note the most memory that control had while something else went on."""
    doing = asyncio.ensure_future(work)
    most = 0.0
    while not doing.done():
        most = max(most, _mib(server))
        await asyncio.wait([doing], timeout=0.5)
    await doing
    note(f"control, MiB at most (collector {when})", most)


def _mib(server: Bpa) -> float:
    return float(psutil.Process(server.process.pid).memory_info().rss) / 2**20


async def _has(url: str, spans: int) -> bool:
    return (await counts_of(url))["traces"] >= spans
