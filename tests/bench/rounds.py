"""Rounds of load on one server, each with its figures."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench.load import Sample, completed, samples, send_at_once, send_steadily
from tests.bench.processes import cpu_s
from tests.e2e.server import Bpa
from tests.eventually import eventually

CONFIG = Path(__file__).resolve().parents[2] / "config"
STEADY_PER_S = 20.0
SLOTS = 8

Note = Callable[[str, float], None]
"""Takes a figure by its name."""


def progress(what: str) -> None:
    """Say on standard error what is done now, for it takes long."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')}  {what}\n")


def configured(folder: Path) -> Path:
    """Copy the shipped configuration, with a deployment that may use every slot."""
    config = folder / "config"
    shutil.copytree(CONFIG, config)
    path = config / "deployments" / "invoice-classifier-dev.json"
    deployment = json.loads(path.read_text("utf-8"))
    deployment["target"] = {"slotBudget": SLOTS}
    path.write_text(json.dumps(deployment), "utf-8")
    return config


def server_in(folder: Path, config: Path, prefix: Sequence[str] = (), **settings: str) -> Bpa:
    """Return the server, not started; ``prefix`` is a command to run it with."""
    fixed = {"config_dir": str(config), "node__slots": str(SLOTS)}
    return Bpa(folder / "data", prefix=prefix, **fixed, **settings)


async def steady(server: Bpa, count: int, number: int, note: Note) -> None:
    """Send at a steady rate; note what a run costs and how long it takes."""
    done, before = await completed(server), cpu_s(server.process.pid)
    sent = await send_steadily(server, count, STEADY_PER_S, f"steady-{number}")
    await all_completed(server, done + count)
    spent = cpu_s(server.process.pid) - before
    note("20/s: CPU-ms a run", spent.total() / count * 1000)
    found = await _settled(server, sent)
    for name, values in (
        ("sent to settled", sorted(s.latency_ms for s in found)),
        ("placement", sorted(s.placement_ms for s in found)),
    ):
        note(f"20/s: {name} p50, ms", values[len(values) // 2])
        note(f"20/s: {name} p95, ms", values[int(len(values) * 0.95)])


async def saturation(server: Bpa, count: int, number: int, note: Note) -> None:
    """Send all at once; note how fast they end and where the CPU goes."""
    done, before = await completed(server), cpu_s(server.process.pid)
    began = await send_at_once(server, count, f"burst-{number}")
    await all_completed(server, done + count)
    took = time.monotonic() - began
    spent = cpu_s(server.process.pid)
    note("saturation: runs/s", count / took)
    note("saturation: CPU-ms a run", (spent - before).total() / count * 1000)
    for group in sorted(spent):
        note(f"  of it {group}", (spent[group] - before[group]) / count * 1000)


async def all_completed(server: Bpa, count: int) -> None:
    """Wait until so many runs have completed."""

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
