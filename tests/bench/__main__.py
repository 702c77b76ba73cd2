"""``make bench``: load, durability, telemetry, the emulator, many runs, pages; with spread."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.durability import compare
from tests.bench.emulator import compare_brokers
from tests.bench.load import send_at_once
from tests.bench.outage import outlast
from tests.bench.pages import measure_pages
from tests.bench.paint import measure_paint
from tests.bench.processes import rss_mib
from tests.bench.rounds import Note, all_completed, configured, saturation, server_in, steady
from tests.bench.search import measure_search
from tests.bench.telemetry import compare_telemetry

_PARTS = ("load", "durability", "telemetry", "outage", "emulator", "search", "pages", "paint")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of steady load and of saturation")
    parser.add_argument("--steady", type=int, default=200, help="messages at 20/s in a round")
    parser.add_argument("--burst", type=int, default=600, help="messages at once in a round")
    parser.add_argument(
        "--messages", type=int, default=20_000, help="through a broker in a round, of 1 KB each"
    )
    parser.add_argument("--runs", type=int, default=1_000_000, help="that are searched")
    parser.add_argument(
        "--keep", type=Path, help="where the cluster with these runs is kept, or found again"
    )
    parser.add_argument("--only", choices=_PARTS, help="leave out the others; all unless given")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bpa-bench-") as folder:
        figures = asyncio.run(_measure(Path(folder), arguments))
    if arguments.json:
        sys.stdout.write(json.dumps(figures, indent=1) + "\n")


async def _measure(folder: Path, arguments: argparse.Namespace) -> dict[str, list[float]]:
    figures: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        figures.setdefault(name, []).append(round(value, 3))

    config = configured(folder)
    parts = _PARTS if arguments.only is None else (arguments.only,)
    if "load" in parts:
        await _load(folder, config, arguments, note)
    if "durability" in parts:
        await compare(folder, config, arguments, note)
    if "telemetry" in parts:
        await compare_telemetry(folder, config, arguments, note)
    if "outage" in parts:
        await outlast(folder / "outage", config, arguments, note)
    if "emulator" in parts:
        compare_brokers(folder, arguments, note)
    if "search" in parts:
        await measure_search(folder, arguments, note)
    if "pages" in parts:
        await measure_pages(folder, arguments, note)
    if "paint" in parts:
        await measure_paint(folder, config, arguments, note)
    _print(figures)
    return figures


async def _load(folder: Path, config: Path, arguments: argparse.Namespace, note: Note) -> None:
    for start in ("first start, s", "next start, s"):
        server = server_in(folder, config)
        started = time.monotonic()
        await server.start()
        note(start, time.monotonic() - started)
        if start.startswith("first"):
            await server.stop()
    try:
        await send_at_once(server, 40, "warm")  # caches, connections, forks ahead
        await all_completed(server, 40)
        for number in range(arguments.rounds):
            await steady(server, arguments.steady, number, note)
            await saturation(server, arguments.burst, number, note)
        note("memory of all processes, MiB", rss_mib(server.process.pid))
    finally:
        await server.stop()


def _print(figures: dict[str, list[float]]) -> None:
    print(f"{'':<80} {'median':>9} {'min':>9} {'max':>9}")  # noqa: T201 - it is the output
    for name, values in figures.items():
        row = (statistics.median(values), min(values), max(values))
        print(f"{name:<80} " + " ".join(f"{value:>9.1f}" for value in row))  # noqa: T201


if __name__ == "__main__":
    main()
