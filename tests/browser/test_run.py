"""One run looked into, in a browser: what it works on, its log, where it leads."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.browser.chromium import MISSING, chromium
from tests.browser.conftest import Tab
from tests.browser.test_pages import AXE, RUN_AXE, THEMES, path_of
from tests.e2e.server import Bpa
from tests.eventually import eventually

FILE = Path(__file__).parents[2] / "demo" / "invoices" / "001-bergblick-bb-00036.json"


@pytest.fixture(scope="module")
def open_system(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bpa]:
    """A system that shows what runs work on, and links to where traces are kept."""
    if chromium() is None:
        pytest.skip(MISSING)
    bpa = Bpa(
        tmp_path_factory.mktemp("open") / "data",
        contents__show="masked",
        telemetry__trace_url="https://traces.example.com/{trace_id}",
    )

    async def ended() -> bool:
        return any(run["endedAt"] for run in (await bpa.get("/v1/runs"))["runs"])

    async def start() -> None:
        await bpa.start()
        code, _, err = await bpa.run("send", str(FILE))
        assert code == 0, err
        await eventually(ended, within_s=30)

    runner.run(start())
    try:
        yield bpa
    finally:
        runner.run(bpa.end())


@pytest_asyncio.fixture
async def looking(open_system: Bpa, browser: Browser) -> AsyncIterator[Tab]:
    """A tab on that system's run; that nothing was complained about is made sure of at the end."""
    context = await browser.new_context()
    tab = Tab(await context.new_page(), open_system.addresses["http"])
    tab.page.on("console", tab.heard)
    tab.page.on("pageerror", lambda error: tab.complaints.append(str(error)))
    await tab.go(await path_of(open_system, "RUN"))
    yield tab
    await context.close()
    assert tab.complaints == []


async def test_what_a_run_works_on_is_hidden_by_default(tab: Tab, system: Bpa):
    await tab.go(await path_of(system, "RUN"))
    await expect(tab.page.get_by_text("is hidden, for it may be personal data")).to_be_visible()
    await expect(tab.page.get_by_role("link", name="Look at document")).to_have_count(0)


async def test_a_log_is_there_once_the_page_is_painted(tab: Tab, system: Bpa):
    await tab.go(await path_of(system, "RUN"))
    log = tab.page.locator("ol.log")
    await expect(log.get_by_text("http.out", exact=False)).to_be_visible()
    await expect(tab.page.get_by_role("link", name="line by line")).to_have_count(0)


async def test_contents_are_looked_at_where_they_are_shown_and_the_look_is_in_the_log(
    looking: Tab,
):
    page = looking.page
    trace = page.get_by_title("Open it where traces are kept")
    await expect(trace).to_have_attribute("href", re.compile("https://traces.example.com/[0-9a-f]"))
    await page.get_by_role("link", name="Look at document").click()
    await expect(page.locator("h1")).to_have_text("What it works on")
    await expect(page.get_by_text('"invoice_id"').first).to_be_visible()
    await expect(page.get_by_text('"(withheld)"').first).to_be_visible()
    await page.get_by_text("Prompt", exact=True).click()
    await expect(page.get_by_text("You classify invoices")).to_be_visible()
    async with page.expect_download() as download:
        await page.get_by_role("link", name="Download as JSON").click()
    assert (await download.value).suggested_filename.startswith("run-")
    await page.get_by_role("link", name="Back to the run").click()
    await expect(page.locator("ol.log").get_by_text("looked at its contents").first).to_be_visible()


async def test_contents_fit_a_phone_and_axe_finds_nothing_serious(looking: Tab):
    page = looking.page
    await page.get_by_role("link", name="Look at document").click()
    await page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    for width in (1440, 768, 320):
        await page.set_viewport_size({"width": width, "height": 800})
        wider = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wider <= 0, width
    await page.evaluate(AXE.read_text())
    for theme in THEMES:
        await page.emulate_media(color_scheme=theme)
        found = await page.evaluate(RUN_AXE)
        bad = [one["id"] for one in found["violations"] if one["impact"] in ("serious", "critical")]
        assert bad == [], theme


async def test_the_log_is_reached_without_javascript(system: Bpa, browser: Browser):
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    await page.goto(system.addresses["http"] + await path_of(system, "RUN"))
    await page.get_by_role("link", name="line by line").click()
    await expect(page.locator("ol.log")).to_contain_text("receive")
    await context.close()
