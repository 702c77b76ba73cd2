"""``make bench``: start-up, steady load, saturation; each figure with its spread."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.load import Sample, completed, samples, send_at_once, send_steadily
from tests.bench.processes import cpu_s, rss_mib
from tests.e2e.server import Bpa
from tests.eventually import eventually

CONFIG = Path(__file__).resolve().parents[2] / "config"
STEADY_PER_S = 20.0
SLOTS = 8


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of steady load and of saturation")
    parser.add_argument("--steady", type=int, default=200, help="messages at 20/s in a round")
    parser.add_argument("--burst", type=int, default=600, help="messages at once in a round")
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

    config = _config(folder)
    for start in ("first start, s", "next start, s"):
        server = _server(folder, config)
        started = time.monotonic()
        await server.start()
        note(start, time.monotonic() - started)
        if start.startswith("first"):
            await server.stop()
    try:
        await send_at_once(server, 40, "warm")  # caches, connections, forks ahead
        await _all_completed(server, 40)
        for number in range(arguments.rounds):
            await _steady(server, arguments.steady, number, note)
            await _saturation(server, arguments.burst, number, note)
        note("memory of all processes, MiB", rss_mib(server.process.pid))
    finally:
        await server.stop()
    _print(figures)
    return figures


def _config(folder: Path) -> Path:
    """Copy the shipped configuration, with a deployment that may use every slot."""
    config = folder / "config"
    shutil.copytree(CONFIG, config)
    path = config / "deployments" / "invoice-classifier-dev.json"
    deployment = json.loads(path.read_text("utf-8"))
    deployment["target"] = {"slotBudget": SLOTS}
    path.write_text(json.dumps(deployment), "utf-8")
    return config


def _server(folder: Path, config: Path) -> Bpa:
    return Bpa(folder / "data", config_dir=str(config), node__slots=str(SLOTS))


async def _steady(server: Bpa, count: int, number: int, note: Callable[[str, float], None]) -> None:
    done, before = await completed(server), cpu_s(server.process.pid)
    sent = await send_steadily(server, count, STEADY_PER_S, f"steady-{number}")
    await _all_completed(server, done + count)
    spent = cpu_s(server.process.pid) - before
    note("20/s: CPU-ms a run", spent.total() / count * 1000)
    found = await _settled(server, sent)
    for name, values in (
        ("sent to settled", sorted(s.latency_ms for s in found)),
        ("placement", sorted(s.placement_ms for s in found)),
    ):
        note(f"20/s: {name} p50, ms", values[len(values) // 2])
        note(f"20/s: {name} p95, ms", values[int(len(values) * 0.95)])


async def _saturation(
    server: Bpa, count: int, number: int, note: Callable[[str, float], None]
) -> None:
    done, before = await completed(server), cpu_s(server.process.pid)
    began = await send_at_once(server, count, f"burst-{number}")
    await _all_completed(server, done + count)
    took = time.monotonic() - began
    spent = cpu_s(server.process.pid)
    note("saturation: runs/s", count / took)
    note("saturation: CPU-ms a run", (spent - before).total() / count * 1000)
    for group in sorted(spent):
        note(f"  of it {group}", (spent[group] - before[group]) / count * 1000)


async def _all_completed(server: Bpa, count: int) -> None:
    async def probe() -> bool:
        return await completed(server) >= count

    await eventually(probe, within_s=120, every_s=0.25)  # counting costs the server, too


async def _settled(server: Bpa, sent: dict[str, float]) -> list[Sample]:
    async def probe() -> list[Sample]:
        try:
            found = await samples(server, sent)
        except ValueError:
            return []  # the last messages are completed and not settled yet
        return found if len(found) == len(sent) else []

    return await eventually(probe, within_s=60, every_s=0.5)


def _print(figures: dict[str, list[float]]) -> None:
    print(f"{'':<42} {'median':>9} {'min':>9} {'max':>9}")  # noqa: T201 - it is the output
    for name, values in figures.items():
        row = (statistics.median(values), min(values), max(values))
        print(f"{name:<42} " + " ".join(f"{value:>9.1f}" for value in row))  # noqa: T201


if __name__ == "__main__":
    main()
