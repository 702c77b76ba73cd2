"""A deployment edited in a browser: checked while it is typed, saved after a look, taken back."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import aiohttp
import pytest
from playwright.async_api import Page, Route, expect

from tests.browser.conftest import Tab
from tests.browser.test_pages import AXE, RUN_AXE
from tests.e2e.server import Bpa

DEPLOYMENT = "invoice-classifier-dev"
REST = f"/v1/deployments/{DEPLOYMENT}"
PAGE = f"/ui/deployments/{DEPLOYMENT}"


@pytest.fixture
async def at_first(session: aiohttp.ClientSession) -> AsyncIterator[dict]:
    """The deployment as it is; after the test it says the same again."""
    async with session.get(REST) as answer:
        found = await answer.json()
    yield found
    body = {"spec": found["spec"], "note": "after a test"}
    async with session.put(REST, json=body, headers={"If-Match": "*"}) as answer:
        assert answer.status == 200, await answer.text()


async def saved_elsewhere(session: aiohttp.ClientSession, spec: dict, **target: int) -> None:
    body = {
        "spec": {**spec, "target": {**spec["target"], **target}},
        "note": "for the night",
        "requestedBy": "other@desk",
    }
    async with session.put(REST, json=body, headers={"If-Match": "*"}) as answer:
        assert answer.status == 200, await answer.text()


async def serious(page: Page) -> list[str]:
    await page.evaluate(AXE.read_text())
    found = await page.evaluate(RUN_AXE)
    return [one["id"] for one in found["violations"] if one["impact"] in ("serious", "critical")]


async def test_an_edit_is_checked_as_it_is_typed_and_saved_after_a_look(
    tab: Tab, at_first: dict, session: aiohttp.ClientSession
):
    await tab.go(PAGE)
    await tab.page.get_by_role("link", name="Edit …").click()
    slots = tab.page.get_by_label("Slot budget")
    await slots.press("End")
    await slots.press_sequentially("x")
    await expect(slots).to_have_attribute("aria-invalid", "true")
    await expect(slots).to_be_focused()
    problem = tab.page.locator("#f-target-slotBudget-problem")
    await expect(problem).to_have_text("a whole number is needed here, not a text")
    assert "f-target-slotBudget-problem" in (await slots.get_attribute("aria-describedby") or "")
    assert await serious(tab.page) == []
    await expect(tab.page.locator("#say")).to_contain_text("1 problems: target.slotBudget")

    await slots.fill("8")
    await tab.page.get_by_label("Placement").fill("region: aus-east\nzone: b")
    diff = tab.page.get_by_role("region", name="Changes, field by field")
    await expect(diff).to_contain_text("placement.affinity.zone")
    await expect(tab.page.get_by_text("No node qualifies")).to_be_visible()
    await expect(tab.page.locator(".lines", has_text="node-1")).to_contain_text("refuses: no zone")
    json = tab.page.get_by_label("The same as JSON")
    assert '"slotBudget": 8' in await json.input_value()
    await json.fill((await json.input_value()).replace('"maxEffects": 1', '"maxEffects": 3'))
    await expect(tab.page.get_by_label("Effects")).to_have_value("3")
    assert await serious(tab.page) == []

    await tab.page.get_by_label("Placement").fill("region: aus-east")
    await expect(diff).not_to_contain_text("placement")
    await tab.page.get_by_label("Why").fill("month end")
    await tab.page.get_by_role("button", name="Save as revision").click()
    await expect(tab.page.get_by_text("is saved.")).to_be_visible()
    async with session.get(f"{REST}/revisions?limit=1") as answer:
        (latest,) = (await answer.json())["revisions"]
    assert (latest["requestedBy"], latest["note"]) == ("ui:local", "month end")
    assert {one["field"]: one["after"] for one in latest["changes"]} == {
        "target.slotBudget": 8,
        "maxEffects": 3,
    }


async def test_an_answer_to_what_has_been_typed_over_takes_nothing_back(tab: Tab, at_first: dict):
    await tab.go(f"{PAGE}/edit")
    typed_on = asyncio.Event()

    async def answer_late(route: Route) -> None:
        response = await route.fetch()
        await typed_on.wait()
        await route.fulfill(response=response)

    await tab.page.route(f"**{PAGE}/edit", answer_late)
    duration = tab.page.get_by_label("Time at work")
    async with tab.page.expect_request(f"**{PAGE}/edit"):
        await duration.fill("9")
    async with tab.page.expect_response(f"**{PAGE}/edit"):
        await duration.press_sequentially("0m")
        typed_on.set()
    await expect(tab.page.locator("#f-budgets-maxDuration-was")).to_have_text("now: 60s")
    await expect(tab.page.get_by_role("region", name="Changes")).to_contain_text("90m")
    await expect(duration).to_have_value("90m")
    await expect(duration).to_be_focused()


async def test_who_was_slower_sees_what_was_saved_and_puts_an_edit_on_top(
    tab: Tab, at_first: dict, session: aiohttp.ClientSession
):
    await tab.go(f"{PAGE}/edit")
    await tab.page.get_by_label("Slot budget").fill("8")
    await tab.page.get_by_label("Timeout").fill("5")
    save = tab.page.get_by_role("button", name="Save as revision")
    await expect(save).to_be_visible()
    await expect(tab.page.get_by_role("region", name="Changes")).to_contain_text("timeoutS")
    await saved_elsewhere(session, at_first["spec"], slotBudget=6, replicas=2)
    await save.click()

    conflict = tab.page.get_by_role("alert")
    await expect(conflict).to_contain_text("It has changed since you began")
    await expect(conflict).to_contain_text("other@desk")
    await expect(conflict).to_contain_text("for the night")
    await expect(conflict).to_contain_text("target.replicas")
    await expect(tab.page.get_by_label("Slot budget")).to_have_value("8")
    await expect(tab.page.get_by_label("Timeout")).to_have_value("5")
    await expect(save).to_have_count(0)
    assert await serious(tab.page) == []
    tab.complaints.clear()  # that it was refused, with 409, is what was asked for

    await tab.page.get_by_role("button", name="Put my edit on top of it").click()
    await expect(tab.page.get_by_text("Both of you changed these")).to_be_visible()
    await expect(tab.page.get_by_label("Replicas")).to_have_value("2")
    await save.click()
    await expect(tab.page.get_by_text("is saved.")).to_be_visible()
    async with session.get(REST) as answer:
        spec = (await answer.json())["spec"]
    assert (spec["target"]["slotBudget"], spec["target"]["replicas"]) == (8, 2)
    assert spec["httpOut"]["timeoutS"] == 5


async def test_an_edit_is_made_and_taken_back_without_javascript(
    system: Bpa, browser, at_first: dict, session: aiohttp.ClientSession
):
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    base = system.addresses["http"]
    await page.goto(f"{base}{PAGE}/edit")
    await page.get_by_label("Tokens").fill("many")
    await page.get_by_role("button", name="Check").click()
    await expect(page.get_by_label("Tokens")).to_have_attribute("aria-invalid", "true")
    await page.get_by_label("Tokens").fill("5000")
    await page.get_by_role("button", name="Check").click()
    await expect(page.get_by_label("The same as JSON")).to_have_value(
        re.compile('"maxTokens": 5000')
    )
    await page.get_by_role("button", name="Save as revision").click()
    await expect(page.get_by_text("is saved.")).to_be_visible()
    await page.get_by_role("link", name="Revisions").click()
    revision = at_first["revision"]
    await page.get_by_role("link", name=f"Roll back to {revision} …").click()
    await expect(page.get_by_label("Tokens")).to_have_value("4000")
    await page.get_by_role("button", name="Save as revision").click()
    await expect(page.get_by_text("is saved.")).to_be_visible()
    async with session.get(f"{REST}/revisions?limit=1") as answer:
        (latest,) = (await answer.json())["revisions"]
    assert (latest["restores"], latest["spec"]) == (revision, at_first["spec"])
    await context.close()


async def test_a_deployment_is_edited_by_keyboard_alone(tab: Tab, at_first: dict):
    await tab.go(f"{PAGE}/edit")
    await tab.page.get_by_label("Model calls").focus()
    await tab.page.keyboard.press("Control+a")
    await tab.page.keyboard.type("7")
    save = tab.page.get_by_role("button", name="Save as revision")
    await expect(save).to_be_visible()
    await expect(tab.page.get_by_label("Model calls")).to_be_focused()
    for _ in range(40):
        if await save.evaluate("one => one === document.activeElement"):
            break
        await tab.page.keyboard.press("Tab")
    await tab.page.keyboard.press("Enter")
    await expect(tab.page.get_by_text("is saved.")).to_be_visible()
