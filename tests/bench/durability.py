"""What durability costs: the same load with and without it, in turns."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.bench.load import send_at_once
from tests.bench.rounds import Note, all_completed, saturation, server_in, steady
from tests.e2e.server import Bpa

VARIANTS = {
    "durable": (),
    "no journal": ("journal",),
    "no journal, no acknowledgement": ("journal", "acknowledgement"),
}
"""What each leaves out; see `tests.bench.undurable`."""
_WARM = 40


async def compare(folder: Path, config: Path, arguments: argparse.Namespace, note: Note) -> None:
    """Note the figures of each variant; a round starts each once, so that all share the noise."""
    for number in range(arguments.rounds):
        for name, without in VARIANTS.items():
            await _measure(
                folder / f"{number} {name}", config, without, arguments, named(note, name)
            )


def named(note: Note, variant: str) -> Note:
    """Return ``note`` for the figures of a variant."""
    return lambda figure, value: note(f"{figure} ({variant})", value)


async def _measure(
    folder: Path,
    config: Path,
    without: tuple[str, ...],
    arguments: argparse.Namespace,
    note: Note,
) -> None:
    folder.mkdir()
    prefix = [sys.executable, "-m", "tests.bench.undurable", *without, "--"] if without else []
    server = server_in(folder, config, prefix)
    await server.start()
    try:
        await send_at_once(server, _WARM, "warm")
        await all_completed(server, _WARM)
        await steady(server, arguments.steady // 2, 0, note)
        await saturation(server, arguments.burst // 2, 0, note)
        await _check(server, without)
    finally:
        await server.stop()


async def _check(server: Bpa, without: tuple[str, ...]) -> None:
    """Make sure that what was to be left out was, and nothing else."""
    run = await server.get(f"/v1/runs/{(await server.runs())[0]['runId']}")
    found = (bool(run["steps"]), bool(run["executions"]))
    assert found == ("journal" not in without, "acknowledgement" not in without), run
