"""A million runs: how long searches, runs and pages take.

Over HTTP on loopback, with Postgres as the embedded default has it; times are the server's own,
with what a client adds on the same machine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import aiohttp
from yarl import URL

from tests.bench.many_runs import filled
from tests.bench.processes import cpu_s
from tests.bench.rounds import Note, configured, server_in
from tests.e2e.server import Bpa

SEARCHES = (
    "",
    "status:active",
    "status:dead_lettered",
    "reason:AgentError",
    "error:BudgetExceeded since:1d",
    "agent:agent-5",
    "deployment:agent-1-prod status:dead_lettered",
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
"""What people look for."""
_OTHERS = {
    "overview": "/ui",
    "costs of an hour by deployment": "/ui/costs?since=1h",
    "costs of 30 days by model": "/ui/costs?since=30d&by=model",
    "costs of 30 days by deployment": "/ui/costs?since=30d",
    "deployments": "/ui/deployments",
    "totals of all runs over REST": "/v1/totals",
}


async def measure_search(folder: Path, arguments: argparse.Namespace, note: Note) -> None:
    """Serve many runs, and note how long it takes to look at them."""
    server = server_in(await filled(folder, arguments, note), configured(folder / "search-config"))
    await server.start()
    try:
        async with aiohttp.ClientSession(server.addresses["http"]) as session:
            for _ in range(arguments.rounds):
                await _round(server, session, note)
    finally:
        await server.stop()


async def _round(server: Bpa, session: aiohttp.ClientSession, note: Note) -> None:
    took: dict[str, list[float]] = defaultdict(list)
    searches = ("search over REST", "search in the pages")
    with _cpu(server, searches, took, note):
        for search in SEARCHES:
            query = f"?q={quote(search)}"
            page = json.loads(await _got(session, f"/v1/runs{query}", took[searches[0]]))
            await _got(session, f"/ui/runs{query}", took[searches[1]])
            if page["nextCursor"]:
                query += f"&cursor={quote(page['nextCursor'])}"
                await _got(session, f"/v1/runs{query}", took[searches[0]])
                await _got(session, f"/ui/runs{query}", took[searches[1]])
    ids = []
    for days in range(1, 21):
        body = await _got(session, f"/v1/runs?limit=5&q=until:{days}d", [])
        ids += [run["runId"] for run in json.loads(body)["runs"]]
    ways = {"one run over REST": "/v1/runs", "one run's page": "/ui/runs"}
    with _cpu(server, tuple(ways), took, note):
        for run_id in ids:
            for name, path in ways.items():
                await _got(session, f"{path}/{run_id}", took[name])
    for name, path in _OTHERS.items():
        for _ in range(5):
            await _got(session, path, took[name])
    for name, times in took.items():
        _note_of(name, times, note)


@contextmanager
def _cpu(
    server: Bpa, names: Sequence[str], took: dict[str, list[float]], note: Note
) -> Iterator[None]:
    """Note the CPU time of what is asked inside, which neighbours do not lengthen."""
    before = cpu_s(server.process.pid)
    yield
    spent, many = cpu_s(server.process.pid) - before, sum(len(took[name]) for name in names)
    for group in ("control + node", "postgres"):
        note(f"{', '.join(names)}: CPU-ms of {group}", spent[group] / many * 1000)


async def _got(session: aiohttp.ClientSession, path: str, took: list[float]) -> bytes:
    began = time.perf_counter()
    async with session.get(URL(path, encoded=True)) as response:
        body = await response.read()
    took.append((time.perf_counter() - began) * 1000)
    assert response.status == 200, body
    return body


def _note_of(what: str, took: list[float], note: Note) -> None:
    ordered = sorted(took)
    note(f"{what} p50, ms", ordered[len(ordered) // 2])
    note(f"{what} p95, ms", ordered[int(len(ordered) * 0.95)])
    note(f"{what} at most, ms", ordered[-1])
