"""What an operator does when something is wrong at night, each by hand in a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path

from playwright.async_api import expect

from bpa.connectors import OutgoingMessage
from bpa.connectors.service_bus import ServiceBusPublisher
from tests.browser.conftest import Tab
from tests.e2e.server import Bpa
from tests.eventually import eventually
from tests.unit.ui.hostile import HOSTILE as WITH_NUL

HOSTILE = WITH_NUL.replace("\0", "")
INVOICE = Path(__file__).parents[2] / "demo" / "invoices" / "001-bergblick-bb-00036.json"


async def sent(system: Bpa, message: OutgoingMessage) -> None:
    async with ServiceBusPublisher(system.addresses["service_bus"], "invoices") as publisher:
        await publisher.send([message])


async def letters_of(system: Bpa, message_id: str) -> list[str]:
    letters = (await system.get("/v1/dead-letters"))["deadLetters"]
    return [one["id"] for one in letters if one["messageId"].startswith(message_id)]


async def runs_of(system: Bpa, message_id: str) -> list[dict]:
    return [one for one in await system.runs() if one["messageId"].startswith(message_id)]


async def test_a_dead_letter_is_mended_and_becomes_a_result(tab: Tab, system: Bpa):
    invoice = json.loads(INVOICE.read_text("utf-8")) | {"invoice_id": "MENDED-1"}
    broken = json.dumps(invoice, indent=1).replace('"MENDED-1"', "MENDED-1")
    await sent(
        system,
        OutgoingMessage(
            body=broken.encode(), content_type="application/json", message_id="broken.json"
        ),
    )

    async def is_dead() -> bool:
        return len(await letters_of(system, "broken.json")) == 1

    await eventually(is_dead, within_s=30)
    (letter,) = await letters_of(system, "broken.json")
    await tab.go(f"/ui/dead-letters/{letter}")
    body = tab.page.get_by_label("Left as it is")
    await body.fill((await body.input_value()).replace("MENDED-1", '"MENDED-1"'))
    await tab.page.get_by_role("button", name="Replay", exact=True).click()
    await expect(tab.page.locator("h1")).to_have_text("Replayed")
    await tab.page.get_by_role("link", name="its run").click()
    await expect(tab.page.locator("#live .badge").first).to_have_text("completed", timeout=20_000)
    await expect(tab.page.get_by_text("MENDED-1").first).to_be_visible()
    assert await letters_of(system, "broken.json") == []


async def test_a_search_narrows_the_list_and_says_what_it_cannot_read(tab: Tab, system: Bpa):
    await tab.go("/ui/runs")
    field = tab.page.get_by_role("searchbox")
    await field.fill("status:dead_lettered error:BudgetExceeded")
    await field.press("Enter")
    await expect(tab.page).to_have_url(re.compile(r"q=status%3Adead_lettered\+error%3ABudget"))
    rows = tab.page.locator("#live .badge", has_text="dead-lettered")
    await expect(rows).to_have_count(1)
    await tab.page.get_by_role("searchbox").fill("attempt:many")
    await tab.page.get_by_role("searchbox").press("Enter")
    await expect(tab.page.get_by_text("This search cannot be read")).to_be_visible()
    await expect(tab.page.get_by_role("searchbox")).to_have_value("attempt:many")


async def test_a_drain_shows_what_remains_until_it_is_forced(tab: Tab, system: Bpa):
    await system.put("/_stub/script", {"rules": [{"latency_ms": 600_000}]}, "anthropic")
    try:
        await sent(
            system,
            OutgoingMessage(
                body=INVOICE.read_bytes(), content_type="application/json", message_id="stuck.json"
            ),
        )

        async def works() -> bool:
            return [one["status"] for one in await runs_of(system, "stuck.json")] == ["running"]

        await eventually(works, within_s=30)
        await tab.go("/ui/fleet/node-1")
        await tab.page.get_by_text("Drain by a deadline").click()
        await tab.page.get_by_role("button", name="Drain", exact=True).click()
        panel = tab.page.locator(".drain")
        await expect(panel).to_contain_text(re.compile(r"\b1 (run|of 1)\b"))
        await expect(panel).to_contain_text("deadline")
        await expect(tab.page.get_by_role("region", name="Runs on the node")).to_be_visible()
        await tab.page.get_by_role("button", name="Force").click()
        await expect(tab.page.get_by_text("node-1 is empty")).to_be_visible(timeout=30_000)
    finally:
        await system.put("/_stub/script", {"rules": []}, "anthropic")
        await tab.page.get_by_role("button", name="Uncordon").click()

    async def is_done() -> bool:
        return [one["status"] for one in await runs_of(system, "stuck.json")] == ["completed"]

    await eventually(is_done, within_s=30)


async def test_what_strangers_write_is_shown_and_does_nothing(tab: Tab, system: Bpa):
    invoice = json.loads(INVOICE.read_text("utf-8"))
    for name, body in (
        ("fields", json.dumps(invoice | {"vendor": HOSTILE[:150], "invoice_id": "<b-evil>"})),
        ("prose", HOSTILE),
    ):
        await sent(
            system,
            OutgoingMessage(
                body=body.encode(),
                content_type="application/json",
                message_id=f"hostile-{name}{HOSTILE[:60]}",
                properties={"tenant": HOSTILE[:200]},
            ),
        )

    async def have_ended() -> bool:
        runs = await runs_of(system, "hostile-")
        return len(runs) == 2 and all(one["endedAt"] for one in runs)

    await eventually(have_ended, within_s=30)

    async def is_dead() -> bool:
        return bool(await letters_of(system, "hostile-prose"))

    await eventually(is_dead, within_s=30)
    dialogs: list[str] = []
    tab.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    runs = await runs_of(system, "hostile-")
    (letter,) = await letters_of(system, "hostile-prose")
    held = {"action": "replay", "ids": [letter], "hold": True, "detail": HOSTILE[:500]}
    operation = (await system.post("/v1/operations", held))["id"]
    await tab.page.set_viewport_size({"width": 320, "height": 800})
    for path in (
        "/ui",
        "/ui/runs",
        *(f"/ui/runs/{one['runId']}" for one in runs),
        "/ui/dead-letters",
        f"/ui/dead-letters/{letter}",
        f"/ui/operations/{operation}",
        "/ui/runs?q=%3Cb-evil%3E%22",
    ):
        await tab.go(path)
        await expect(tab.page.locator("h1")).to_be_visible()
        assert await tab.page.locator("b-evil").count() == 0, path
        assert await tab.page.evaluate("document.documentElement.scrollWidth") <= 320, path
    assert "b-evil" in await tab.page.content(), "it is shown as text"
    assert dialogs == []
    await system.post(f"/v1/operations/{operation}:stop", {})
