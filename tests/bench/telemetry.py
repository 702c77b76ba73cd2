"""What telemetry costs: the same load with all three signals sent over OTLP, and with none."""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from pathlib import Path

from tests.bench.durability import named
from tests.bench.load import send_at_once, send_steadily
from tests.bench.processes import cpu_s
from tests.bench.receiver import counts_of, receiver
from tests.bench.rounds import STEADY_PER_S, Note, all_completed, server_in
from tests.e2e.server import Bpa
from tests.eventually import eventually

_WARM = 40
_TRAILS_S = 3.0
"""After a load, for what trails it: with telemetry the spans of its last runs."""
_SPANS_PER_RUN = 9


async def compare_telemetry(
    folder: Path, config: Path, arguments: argparse.Namespace, note: Note
) -> None:
    """Note the figures with and without; a round starts both, each first in turn."""
    async with receiver() as url:
        for number in range(arguments.rounds):
            variants = {"OTLP": {"telemetry__otlp_endpoint": url}, "no OTLP": {}}
            names = list(variants) if number % 2 else list(reversed(variants))
            for name in names:
                server = server_in(folder / f"{number} {name}", config, **variants[name])
                (folder / f"{number} {name}").mkdir()
                await _measure(server, arguments, named(note, name))
        runs = arguments.rounds * (_WARM + arguments.steady + arguments.burst)
        await eventually(lambda: _has_all(url, runs), within_s=30, every_s=0.5)


async def _measure(server: Bpa, arguments: argparse.Namespace, note: Note) -> None:
    await server.start()
    try:
        await send_at_once(server, _WARM, "warm")
        at_rest = await _rest(server, _WARM)
        await send_steadily(server, arguments.steady, STEADY_PER_S, "steady")
        after = await _rest(server, _WARM + arguments.steady)
        _note_cost(after - at_rest, arguments.steady, "20/s", note)
        at_rest = after
        await send_at_once(server, arguments.burst, "burst")
        after = await _rest(server, _WARM + arguments.steady + arguments.burst)
        _note_cost(after - at_rest, arguments.burst, "saturation", note)
    finally:
        await server.stop()


async def _rest(server: Bpa, runs: int) -> Counter[str]:
    """Return the CPU seconds so far, once so many runs and all that follows from them is done."""
    await all_completed(server, runs)
    await asyncio.sleep(_TRAILS_S)
    return cpu_s(server.process.pid)


def _note_cost(spent: Counter[str], count: int, load: str, note: Note) -> None:
    note(f"{load}: CPU-ms a run", spent.total() / count * 1000)
    for group in ("control + node", "postgres"):
        note(f"{load}: of it {group}", spent[group] / count * 1000)


async def _has_all(url: str, runs: int) -> bool:
    """Say whether a receiver has every span of so many runs, and something of the rest."""
    counts = await counts_of(url)
    return counts["traces"] >= runs * _SPANS_PER_RUN and all(counts.values())
