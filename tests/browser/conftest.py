"""A Chromium over a live system; without one these tests are skipped, and say how to have them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, async_playwright

from tests.browser.chromium import ARGUMENTS, MISSING, chromium
from tests.e2e.server import Bpa
from tests.eventually import eventually

_SENT = (
    "001-bergblick-bb-00036.json", "003-sonnental-rs26-0236.xml", "014-quill-cut-off.json",
    "018-redgum-rg00256.json", "053-whitcombe-time-record.txt",
)  # fmt: skip
_DEMO = Path(__file__).parents[2] / "demo" / "invoices"


@pytest.fixture(scope="session")
def system(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bpa]:
    """A system that has done some work: results, and dead letters of three reasons."""
    if chromium() is None:
        pytest.skip(MISSING)
    bpa = Bpa(tmp_path_factory.mktemp("browser") / "data", node__id="node-1")

    async def start() -> None:
        await bpa.start()
        code, _, err = await bpa.run("send", *(str(_DEMO / name) for name in _SENT))
        assert code == 0, err
        await eventually(lambda: all_ended(bpa), within_s=30)

    runner.run(start())
    try:
        yield bpa
    finally:
        runner.run(bpa.end())


async def all_ended(bpa: Bpa) -> bool:
    """Tell whether all that was sent has ended and its dead letters are in their place."""
    runs = (await bpa.get("/v1/runs"))["runs"]
    letters = (await bpa.get("/v1/dead-letters"))["deadLetters"]
    dead = [run for run in runs if run["status"] == "dead_lettered"]
    ended = [run for run in runs if run["endedAt"]]
    return len(ended) == len(_SENT) and len(letters) == len(dead)


@pytest_asyncio.fixture
async def browser() -> AsyncIterator[Browser]:
    """A browser of the test's own."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Tab:
    """A page, and what a browser complained about on it."""

    page: Page
    base: str
    complaints: list[str] = field(default_factory=list)

    async def go(self, path: str) -> None:
        """Open a page of ours."""
        await self.page.goto(self.base + path, wait_until="load")

    def heard(self, message: ConsoleMessage) -> None:
        """Keep what a script, or the browser about the policy, has to say."""
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


@pytest_asyncio.fixture
async def tab(system: Bpa, browser: Browser) -> AsyncIterator[Tab]:
    """A tab on the system; that nothing was complained about is made sure of at the end."""
    context: BrowserContext = await browser.new_context()
    tab = Tab(await context.new_page(), system.addresses["http"])
    tab.page.on("console", tab.heard)
    tab.page.on("pageerror", lambda error: tab.complaints.append(str(error)))
    yield tab
    await context.close()
    assert tab.complaints == []


@pytest_asyncio.fixture
async def session(system: Bpa) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the system's REST."""
    async with aiohttp.ClientSession(system.addresses["http"]) as session:
        yield session
