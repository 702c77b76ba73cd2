"""First paint: how soon a browser shows something of each page, on the embedded default.

A context of its own for each page is a browser that has never been here: it fetches style and
scripts as well. Asked for again it has them. The machine renders without a graphics card.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, async_playwright

from tests.bench.load import send_at_once
from tests.bench.rounds import Note, all_completed, progress, server_in
from tests.browser.chromium import ARGUMENTS, MISSING, chromium
from tests.eventually import eventually

_RUNS = 200
_PAGES = ("/ui", "/ui/runs", "/ui/fleet", "/ui/dead-letters", "/ui/deployments", "/ui/costs")
_MEASURED = """() => {
  const [page] = performance.getEntriesByType("navigation");
  const [paint] = performance.getEntriesByName("first-contentful-paint");
  const files = performance.getEntriesByType("resource");
  const styles = files.filter((one) => one.name.endsWith(".css"));
  return {
    paint: paint?.startTime, server: page.responseEnd - page.requestStart,
    style: Math.max(...styles.map((one) => one.responseEnd)) - styles[0].startTime,
    bytes: page.encodedBodySize,
  };
}"""

_SPENT = {
    "all it does": ("TaskDuration",),
    "style and layout": ("RecalcStyleDuration", "LayoutDuration"),
    "scripts": ("ScriptDuration",),
}
"""By what Chromium calls them; the page's main thread alone, which neighbours do not lengthen."""


async def measure_paint(
    folder: Path, config: Path, arguments: argparse.Namespace, note: Note
) -> None:
    """Open each page as often as there are rounds, with and without what a browser keeps."""
    if chromium() is None:
        sys.stderr.write(f"{MISSING}\n")
        return
    (folder / "paint").mkdir()
    server = server_in(folder / "paint", config)
    await server.start()
    try:
        await send_at_once(server, _RUNS, "paint")
        await all_completed(server, _RUNS)
        (run, *_) = await server.runs()
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
            base, paths = server.addresses["http"], [*_PAGES, f"/ui/runs/{run['runId']}"]
            await _round(browser, base, paths, lambda *_: None)  # templates are read once
            for _ in range(arguments.rounds):
                progress("each page in a browser")
                await _round(browser, base, paths, note)
            await browser.close()
    finally:
        await server.stop()


async def _round(browser: Browser, base: str, paths: Sequence[str], note: Note) -> None:
    for path in paths:
        name = path if path.count("/") < 3 else "a run"
        context = await browser.new_context()
        page = await context.new_page()
        tool = await context.new_cdp_session(page)
        await tool.send("Performance.enable", {"timeDomain": "threadTicks"})
        new = await _opened(page, base + path)
        spent = await tool.send("Performance.getMetrics")
        kept = await _opened(page, base + path)
        await context.close()
        note(f"{name}: first paint in a new browser, ms", new["paint"])
        note(f"{name}: again, ms", kept["paint"])
        note(f"  {name}, from the server, ms", kept["server"])
        note(f"  {name}, its style in a new browser, ms", new["style"])
        note(f"  {name}, KiB", kept["bytes"] / 1024)
        seconds = {one["name"]: one["value"] for one in spent["metrics"]}
        for what, names in _SPENT.items():
            total_ms = sum(seconds[one] for one in names) * 1000
            note(f"  {name}, CPU-ms in a new browser of {what}", total_ms)


async def _opened(page: Page, url: str) -> dict[str, Any]:
    await page.goto(url, wait_until="load")

    async def painted() -> dict[str, Any] | None:
        found = await page.evaluate(_MEASURED)
        return dict(found) if found["paint"] else None

    return await eventually(painted, within_s=30)
