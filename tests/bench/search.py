"""A million runs: how long pages, searches and runs take, and what open streams of changes cost.

Over REST, on loopback, with Postgres as the embedded default has it; times are the server's own,
with what a client adds on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import psycopg
from yarl import URL

from bpa.embedded.postgres import EmbeddedPostgres
from bpa.postgres import load_queries, migrate
from tests.bench.load import send_steadily
from tests.bench.processes import cpu_s
from tests.bench.rounds import Note, configured, server_in
from tests.e2e.server import Bpa
from tests.eventually import eventually

_QUERIES = load_queries(Path(__file__).with_name("many_runs.py"))
_STREAMS = 200
_BUSY_S = 30.0
_RUNS_PER_S = 5.0
_FAST = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "4GB"}
SEARCHES = (
    "",
    "status:active",
    "status:dead_lettered",
    "reason:AgentError",
    "error:BudgetExceeded since:1d",
    "agent:agent-5",
    "deployment:agent-1-dev status:dead_lettered",
    "node:node-11",
    "queue:queue-4",
    "attempt:>1",
    "attempt:>1 status:dead_lettered",
    "cost:>0.05",
    "cost:>0.02 agent:agent-3",
    "tokens:>2000",
    "since:1h",
    "acme",
    "acme tools 3",
    "nordwind status:dead_lettered",
    "INV-2024-0000123",
    "inv-2024",
    "0123",
    "nothing of that name",
    "gmbh cost:>0.05",
    "trace:00000000000000000000000000000000",
    "replay:yes",
)
"""What people look for; none of it is answered from a cache of ours."""


async def measure_search(folder: Path, arguments: argparse.Namespace, note: Note) -> None:
    """Fill a database with runs, serve it, and note what pages and streams take."""
    server = server_in(folder / "many", configured(folder / "many-config"))
    await _fill(server.data_dir, arguments.runs, note)
    await server.start()
    try:
        async with aiohttp.ClientSession(server.addresses["http"]) as session:
            await _pages(session, note)
            await _streams(server, session, note)
    finally:
        await server.stop()


async def _fill(data_dir: Path, many: int, note: Note) -> None:
    async with EmbeddedPostgres(data_dir, settings=_FAST) as postgres:
        await migrate(postgres.dsn)
        async with await psycopg.AsyncConnection.connect(
            postgres.dsn, autocommit=True
        ) as connection:
            began = time.monotonic()
            await connection.execute(_QUERIES.runs, {"many": many})
            await connection.execute(_QUERIES.history)
            await connection.execute(_QUERIES.analyze)
            note("runs in Postgres, s to put them there", time.monotonic() - began)


async def _pages(session: aiohttp.ClientSession, note: Note) -> None:
    took: list[float] = []
    for _ in range(4):  # the first finds no page of the disk's in memory: it counts, too
        for search in SEARCHES:
            page, first_ms = await _got(session, f"/v1/runs?q={quote(search)}")
            took.append(first_ms)
            if page["nextCursor"]:
                path = f"/v1/runs?q={quote(search)}&cursor={quote(page['nextCursor'])}"
                took.append((await _got(session, path))[1])
    _note_of("page of a search", took, note)
    runs: list[float] = []
    for days in range(1, 21):
        page, _ = await _got(session, f"/v1/runs?limit=10&q=until:{days}d")
        runs += [(await _got(session, f"/v1/runs/{run['runId']}"))[1] for run in page["runs"]]
    _note_of("one run", runs, note)


async def _got(session: aiohttp.ClientSession, path: str) -> tuple[Any, float]:
    began = time.perf_counter()
    async with session.get(URL(path, encoded=True)) as response:
        body = await response.read()
    took_ms = (time.perf_counter() - began) * 1000
    assert response.status == 200, body
    return json.loads(body), took_ms


def _note_of(what: str, took: list[float], note: Note) -> None:
    ordered = sorted(took)
    note(f"{what} p50, ms", ordered[len(ordered) // 2])
    note(f"{what} p95, ms", ordered[int(len(ordered) * 0.95)])
    note(f"{what} at most, ms", ordered[-1])


async def _streams(server: Bpa, session: aiohttp.ClientSession, note: Note) -> None:
    """Have runs come in with and without open streams, and note the difference."""
    await send_steadily(server, 20, _RUNS_PER_S, "warm")
    without = await _busy(server, "without")
    heard = [0]
    async with asyncio.TaskGroup() as tasks:
        streams = [tasks.create_task(_listen(server, heard)) for _ in range(_STREAMS)]
        # each begins with an event; to connect costs, too, but once
        await eventually(lambda: heard[0] >= _STREAMS, within_s=60)
        heard[0] = 0
        with_streams = await _busy(server, "with")
        for stream in streams:
            stream.cancel()
    for group in ("control + node", "postgres"):
        note(f"{_RUNS_PER_S:g} runs/s: {group}, % of a core", without[group])
        note(f"  with {_STREAMS} streams open", with_streams[group])
    note("  events heard a second by each", heard[0] / _STREAMS / _BUSY_S)


async def _busy(server: Bpa, prefix: str) -> dict[str, float]:
    before = cpu_s(server.process.pid)
    await send_steadily(server, int(_BUSY_S * _RUNS_PER_S), _RUNS_PER_S, prefix)
    spent = cpu_s(server.process.pid) - before
    return {group: spent[group] / _BUSY_S * 100 for group in ("control + node", "postgres")}


async def _listen(server: Bpa, heard: list[int]) -> None:
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(server.addresses["http"], timeout=timeout) as session,
        session.get("/v1/events") as response,
    ):
        async for line in response.content:
            heard[0] += line.startswith(b"event: ")
