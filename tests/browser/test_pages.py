"""The admin UI as people meet it: in a browser, over a system that works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import axe_playwright_python
import pytest
from playwright.async_api import expect

from tests.browser.conftest import Tab
from tests.e2e.server import Bpa
from tests.eventually import eventually

PLACES = [
    "/ui", "/ui/runs", "/ui/runs/many?q=", "RUN", "LOG", "/ui/fleet", "/ui/fleet/node-1",
    "/ui/dead-letters", "LETTER", "/ui/deployments", "/ui/deployments/invoice-classifier-dev",
    "/ui/deployments/invoice-classifier-dev/edit",
    "/ui/deployments/invoice-classifier-dev/revisions",
    "/ui/costs", "/ui/operations", "OPERATION",
]  # fmt: skip
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
RUN_AXE = "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa']})"
THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
CUT_OFF = """[...document.querySelectorAll(".scroll")]
  .filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.ariaLabel)"""
SEND = Path(__file__).parents[2] / "demo" / "invoices" / "005-weidental-sw00000256.xml"


async def path_of(system: Bpa, place: str) -> str:
    """Return a path: of the page of some run, or of some dead letter, where one is asked for."""
    if place in ("RUN", "LOG"):
        runs = (await system.get("/v1/runs"))["runs"]
        done = next(run for run in runs if run["status"] == "completed")
        return f"/ui/runs/{done['runId']}{'/logs' if place == 'LOG' else ''}"
    if place == "LETTER":
        letters = (await system.get("/v1/dead-letters"))["deadLetters"]
        return f"/ui/dead-letters/{letters[0]['id']}"
    if place == "OPERATION":
        runs = (await system.get("/v1/runs?status=dead_lettered"))["runs"]
        asked = {"action": "retry", "ids": [runs[0]["runId"]], "hold": True}
        return f"/ui/operations/{(await system.post('/v1/operations', asked))['id']}"
    return place


@pytest.mark.parametrize("place", PLACES)
async def test_each_page_is_shown_without_a_complaint(tab: Tab, system: Bpa, place: str):
    await tab.go(await path_of(system, place))
    await expect(tab.page.locator("h1")).to_be_visible()


@pytest.mark.parametrize("place", PLACES)
async def test_no_page_is_wider_than_its_window_and_no_table_is_cut_off(
    tab: Tab, system: Bpa, place: str
):
    await tab.go(await path_of(system, place))
    for width in (1440, 768, 360, 320):
        await tab.page.set_viewport_size({"width": width, "height": 800})
        wider = await tab.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wider <= 0, width
        assert await tab.page.evaluate(CUT_OFF) == [], width


@pytest.mark.parametrize("place", PLACES)
async def test_axe_finds_nothing_serious_in_either_theme(tab: Tab, system: Bpa, place: str):
    await tab.go(await path_of(system, place))
    await tab.page.evaluate(AXE.read_text())  # over the debugger: no page could load it
    for theme in THEMES:
        await tab.page.emulate_media(color_scheme=theme)
        found = await tab.page.evaluate(RUN_AXE)
        bad = [
            (one["id"], one["impact"], [node["html"][:160] for node in one["nodes"][:3]])
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]
        assert bad == [], theme


async def test_the_keyboard_reaches_all_that_can_be_done(tab: Tab, system: Bpa):
    await tab.go("/ui/runs")
    await tab.page.keyboard.press("Tab")
    await expect(tab.page.locator(".skip")).to_be_focused()
    can = "a[href]:visible, button:visible, input:visible, summary:visible, [tabindex='0']:visible"
    wanted = await tab.page.locator(can).count()
    reached = set()
    for _ in range(wanted + 5):
        reached.add(
            await tab.page.evaluate(
                "[...document.querySelectorAll('*')].indexOf(document.activeElement)"
            )
        )
        await tab.page.keyboard.press("Tab")
    assert len(reached) >= wanted


async def test_targets_are_large_enough_to_hit(tab: Tab, system: Bpa):
    for place in ("/ui", "/ui/runs", "/ui/fleet/node-1", "/ui/dead-letters", "RUN", "OPERATION"):
        await tab.go(await path_of(system, place))
        small = await tab.page.evaluate(
            "[...document.querySelectorAll('button, summary, input, td a, nav a')]"
            ".filter(e => e.offsetParent && !e.closest('.mark') && e.type !== 'hidden')"
            ".map(e => [e.outerHTML.slice(0, 80), e.getBoundingClientRect()])"
            ".filter(([, r]) => r.width < 24 || r.height < 23.5).map(([h]) => h)"
        )
        assert small == [], place


async def test_a_change_arrives_by_itself_and_is_announced(tab: Tab, system: Bpa):
    await tab.go("/ui/runs?q=005-weidental")
    before = await tab.page.locator("table.runs tbody tr").count()
    code, _, err = await system.run("send", str(SEND))
    assert code == 0, err
    rows = tab.page.locator("table.runs tbody tr")
    await expect(rows).to_have_count(before + 1, timeout=15_000)


async def test_a_page_says_when_control_is_away_and_when_it_is_back(tab: Tab, system: Bpa):
    await tab.go("/ui/fleet")
    beat = tab.page.locator(".beat")
    await expect(beat).to_have_text("live")
    await tab.page.context.set_offline(True)
    await expect(beat).to_have_text("no answer, trying again", timeout=15_000)
    await expect(tab.page.locator("#say")).to_have_text("Control does not answer; trying again")
    await tab.page.context.set_offline(False)
    await expect(beat).to_have_text("live", timeout=30_000)
    tab.complaints.clear()  # that requests failed is what was asked for


async def test_a_paused_page_stays_as_it_is_until_it_is_resumed(tab: Tab, system: Bpa):
    await tab.go("/ui")
    asked: list[str] = []
    await tab.page.get_by_role("button", name="Pause").click()
    await expect(tab.page.locator(".beat")).to_have_text("paused")
    await tab.page.wait_for_load_state("networkidle")
    tab.page.on("request", lambda request: asked.append(request.url))
    await tab.page.wait_for_timeout(4_000)
    assert asked == []
    async with tab.page.expect_request("**/ui*"):
        await tab.page.get_by_role("button", name="Resume").click()
    await expect(tab.page.locator(".beat")).to_have_text("live")


async def test_a_node_is_drained_and_given_back_by_hand(tab: Tab, system: Bpa):
    await tab.go("/ui/fleet/node-1")
    await tab.page.get_by_text("Drain by a deadline").click()
    await tab.page.get_by_label("Deadline from now").fill("5m")
    await tab.page.get_by_role("button", name="Drain", exact=True).click()
    await expect(tab.page.get_by_text("node-1 is empty")).to_be_visible()
    await tab.page.get_by_role("button", name="Uncordon").click()
    await expect(tab.page.get_by_text("It gets leases again.")).to_be_visible()
    await expect(tab.page.locator("#live .badge").first).to_have_text("ready")


async def test_a_group_is_replayed_at_a_rate_with_its_progress_shown_live(tab: Tab, system: Bpa):
    before = len((await system.get("/v1/dead-letters"))["deadLetters"])
    await tab.go("/ui/dead-letters")
    card = tab.page.locator(".group", has_text="Expecting property name")
    await card.get_by_role("button", name="Replay this group").click()
    await expect(tab.page.locator("h1")).to_have_text("Replay 1 dead letter")
    await expect(tab.page.get_by_text("goes on from its run")).to_be_visible()
    await tab.page.get_by_label("So many a second").fill("0.5")
    await tab.page.get_by_label("Why, for the audit").fill("the sender is mended")
    await tab.page.get_by_role("button", name="Replay 1 dead letter").click()
    await expect(tab.page.locator("#live .badge").first).to_have_text("done", timeout=15_000)
    await expect(tab.page.get_by_text("1 replayed")).to_be_visible()
    await expect(tab.page.get_by_text("the sender is mended")).to_be_visible()

    async def dead_again() -> bool:
        return len((await system.get("/v1/dead-letters"))["deadLetters"]) == before

    await eventually(dead_again, within_s=30)


async def test_all_runs_that_a_search_finds_are_cancelled_after_their_count_was_shown(
    tab: Tab, system: Bpa
):
    assert (await system.run("cordon", "node-1"))[0] == 0
    try:
        assert (await system.run("send", str(SEND)))[0] == 0

        async def waits() -> bool:
            return len((await system.get("/v1/runs?status=queued"))["runs"]) == 1

        await eventually(waits, within_s=20)
        await tab.go("/ui/runs?q=status:queued")
        await tab.page.get_by_role("link", name="Act on all 1 run").click()
        await tab.page.get_by_role("button", name="Cancel all").click()
        await expect(tab.page.locator("h1")).to_have_text("Cancel 1 run")
        await expect(tab.page.get_by_text("it waits, and ends at once")).to_be_visible()
        assert await waits(), "nothing is done before it is started"
        await tab.page.get_by_label("Why, for the audit").fill("sent by mistake")
        await tab.page.get_by_role("button", name="Cancel 1 run").click()
        await expect(tab.page.get_by_text("1 cancelled")).to_be_visible(timeout=15_000)
        await tab.page.get_by_role("link", name="all 1").click()
        await expect(tab.page.locator("#live table .badge")).to_have_text("cancelled")
    finally:
        assert (await system.run("uncordon", "node-1"))[0] == 0


async def test_everything_works_without_javascript(system: Bpa, browser):
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    base = system.addresses["http"]
    await page.goto(f"{base}/ui/dead-letters")
    await page.get_by_role("link", name="BudgetExceeded").click()
    await page.get_by_role("button", name="Try it out").click()
    await expect(page.locator("h1")).to_have_text(re.compile(r"Replay \d+ dead letters?"))
    await expect(page.get_by_text("held, not started")).to_be_visible()
    await page.get_by_role("button", name="Let go of it").click()
    await expect(page.get_by_text("stopped by ui:local")).to_be_visible()
    await page.get_by_role("button", name="dark theme").click()
    await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    await context.close()
