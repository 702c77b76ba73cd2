"""Two hundred open pages over many runs: what they cost while runs come in, and when one shows.

A tab is what ``bpa.js`` makes of a page: a stream of changes, and the page's living part asked for
again when something that it shows has changed, at most as often as the page says. CPU time is the
processes' own: neighbours do not show in it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.bench.load import send_steadily
from tests.bench.many_runs import filled
from tests.bench.processes import cpu_s
from tests.bench.rounds import Note, configured, progress, server_in
from tests.e2e.server import Bpa
from tests.eventually import eventually

_BUSY_S = 30.0
_RUNS_PER_S = 5.0
_CALM_S = 15.0
_SOON_S = 0.1
_TABS = {
    "/ui": 60,
    "/ui/runs": 60,
    "/ui/runs?q=status%3Aactive": 20,
    "/ui/runs?q=acme": 10,
    "/ui/fleet": 20,
    "/ui/deployments": 20,
    "/ui/dead-letters": 5,
    "/ui/costs": 5,
}
"""Two hundred, as a team would have them open."""
_LIVE = re.compile(r'<div id="live"[^>]* data-every="([0-9]+)"')
_STREAM = re.compile(r'<div id="stream" data-topics="([a-z ]*)" data-run="([0-9a-f-]*)"')


@dataclass(slots=True)
class Heard:
    """What all tabs together were told and given."""

    opened: int = 0
    events: int = 0
    parts: int = 0
    bytes: int = 0


async def measure_pages(folder: Path, arguments: argparse.Namespace, note: Note) -> None:
    """Serve many runs, open pages, and note what they cost."""
    server = server_in(await filled(folder, arguments, note), configured(folder / "pages-config"))
    await server.start()
    try:
        await send_steadily(server, 20, _RUNS_PER_S, "warm")
        for number in range(arguments.rounds):
            await _round(server, number, note)
    finally:
        await server.stop()


async def _round(server: Bpa, number: int, note: Note) -> None:
    progress("runs without pages")
    without = await _busy(server, f"without-{number}")
    heard = Heard()
    progress("runs with pages")
    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        connector = aiohttp.TCPConnector(limit=0)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                server.addresses["http"],
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None),
            )
        )
        paths = [path for path, many in _TABS.items() for _ in range(many)]
        tabs = [tasks.create_task(_Tab(session, path, heard).live()) for path in paths]
        await eventually(lambda: heard.opened == len(tabs), within_s=60)
        heard.events = heard.parts = heard.bytes = 0
        with_pages = await _busy(server, f"with-{number}")
        for tab in tabs:
            tab.cancel()
    for group in ("control + node", "postgres"):
        name = f"{_RUNS_PER_S:g} runs/s, {group}, % of a core"
        note(f"{name}: no page open", without[group])
        note(f"{name}: {len(paths)} pages open", with_pages[group])
    more = sum(with_pages.values()) - sum(without.values())
    note(f"{len(paths)} pages open, % of a core: what they cost, both together", more)
    note("parts asked for a second", heard.parts / _BUSY_S)
    note("  KiB of each", heard.bytes / heard.parts / 1024)
    note("events heard a second by each", heard.events / len(paths) / _BUSY_S)


async def _busy(server: Bpa, prefix: str) -> dict[str, float]:
    before = cpu_s(server.process.pid)
    await send_steadily(server, int(_BUSY_S * _RUNS_PER_S), _RUNS_PER_S, prefix)
    spent = cpu_s(server.process.pid) - before
    return {group: spent[group] / _BUSY_S * 100 for group in ("control + node", "postgres")}


class _Tab:
    """A page in a browser, after the rules of ``bpa.js``."""

    def __init__(self, session: aiohttp.ClientSession, path: str, heard: Heard) -> None:
        self._session = session
        self._path = path
        self._heard = heard
        self._changed = asyncio.Event()

    async def live(self) -> None:
        """Open the page and keep it up to date until cancelled."""
        await asyncio.sleep(random.uniform(0, _CALM_S / 5))
        async with self._session.get(self._path) as response:
            text = await response.text()
            assert response.status == 200, text
        every_s, topics = _said(text)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(topics))
            tasks.create_task(self._refresh(every_s))

    async def _listen(self, topics: Sequence[str]) -> None:
        asked = "&".join(f"topic={topic}" for topic in topics)
        async with self._session.get(f"/v1/events?{asked}") as response:
            self._heard.opened += 1
            async for line in response.content:
                if line.startswith(b"event: "):
                    self._heard.events += 1
                    self._changed.set()

    async def _refresh(self, every_s: float) -> None:
        loop = asyncio.get_running_loop()
        asked = loop.time()
        while True:
            try:
                async with asyncio.timeout_at(asked + max(every_s, _CALM_S)):
                    await self._changed.wait()
            except TimeoutError:
                pass
            else:
                self._changed.clear()
                await asyncio.sleep(max(_SOON_S, asked + every_s - loop.time()))
            asked = loop.time()
            async with self._session.get(self._path, headers={"HX-Request": "true"}) as response:
                body = await response.read()
                assert response.status == 200, body
            self._heard.parts += 1
            self._heard.bytes += len(body)


def _said(page: str) -> tuple[float, Sequence[str]]:
    live, stream = _LIVE.search(page), _STREAM.search(page)
    assert live is not None, page
    assert stream is not None, page
    return float(live[1]), stream[1].split()
