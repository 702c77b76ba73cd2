"""A million runs: how long searches, runs and pages take.

Over HTTP on loopback, with Postgres as the embedded default has it. The time on a CPU is that of
control and Postgres together, which neighbours do not lengthen; that to the client has all in it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from urllib.parse import quote

import aiohttp
from yarl import URL

from tests.bench.many_runs import filled
from tests.bench.processes import Meter
from tests.bench.rounds import Note, configured, progress, server_in

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
_SERVING = ("control + node", "postgres")
_OTHERS = {
    "overview": "/ui",
    "deployments": "/ui/deployments",
    "costs of an hour by deployment": "/ui/costs?since=1h",
    "costs of 7 days by deployment": "/ui/costs?since=7d",
    "costs of 30 days by model": "/ui/costs?since=30d&by=model",
}


async def measure_search(folder: Path, arguments: argparse.Namespace, note: Note) -> None:
    """Serve many runs, and note how long it takes to look at them."""
    server = server_in(await filled(folder, arguments, note), configured(folder / "search-config"))
    await server.start()
    try:
        async with aiohttp.ClientSession(server.addresses["http"]) as session:
            await _Asking(session, Meter(server.process.pid, _SERVING)).everything()  # connects
            meter = Meter(server.process.pid, _SERVING)
            for number in range(arguments.rounds):
                progress(f"round {number + 1} of searches, runs and pages")
                asking = _Asking(session, meter)
                await asking.everything()
                asking.note(note)
    finally:
        await server.stop()


class _Asking:
    """Asks for one thing after the other, and keeps how long each took."""

    def __init__(self, session: aiohttp.ClientSession, meter: Meter) -> None:
        self._session = session
        self._meter = meter
        self._took: dict[str, list[tuple[float, float]]] = defaultdict(list)

    async def everything(self) -> None:
        """Search in both ways, look at runs of all ages, and at the other pages."""
        for search in SEARCHES:
            query = f"?q={quote(search)}"
            page = json.loads(await self._search(query))
            if page["nextCursor"]:
                await self._search(f"{query}&cursor={quote(page['nextCursor'])}")
        for days in range(1, 21):
            page = json.loads(
                await self._got("runs of a time", f"/v1/runs?limit=5&q=until:{days}d")
            )
            for run in page["runs"]:
                await self._got("one run over REST", f"/v1/runs/{run['runId']}")
                await self._got("one run's page", f"/ui/runs/{run['runId']}")
        for name, path in _OTHERS.items():
            for _ in range(3):
                await self._got(name, path)

    def note(self, note: Note) -> None:
        """Note what it took, by name; the time on a CPU is the servers' own."""
        for name, took in self._took.items():
            for at, what in enumerate(("on a CPU", "to the client")):
                ordered = sorted(one[at] for one in took)
                for part in (0.5, 0.95):
                    value = ordered[int(len(ordered) * part)]
                    note(f"{name}: {what}, p{part * 100:.0f}, ms", value)

    async def _search(self, query: str) -> bytes:
        await self._got("search in the pages", f"/ui/runs{query}")
        return await self._got("search over REST", f"/v1/runs{query}")

    async def _got(self, name: str, path: str) -> bytes:
        before_ms, began = self._meter.ms(), time.perf_counter()
        async with self._session.get(URL(path, encoded=True)) as response:
            body = await response.read()
        took_ms = (time.perf_counter() - began) * 1000
        self._took[name].append((self._meter.ms() - before_ms, took_ms))
        assert response.status == 200, body
        return body
