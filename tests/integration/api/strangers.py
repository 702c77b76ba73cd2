"""Schemathesis as a process of its own, told nothing but an address and what things are called."""

import asyncio
import json
import os
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.api.world import World

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Findings:
    """What one run of Schemathesis came to."""

    report: dict[str, Any]
    words: str
    """What it printed: each finding with the request that brings it about."""

    @property
    def where(self) -> dict[str, set[str]]:
        """The operations of each kind of finding."""
        return {failure["type"]: set(failure["operations"]) for failure in self.report["failures"]}


def config_of(world: World) -> str:
    """Return its configuration: the names of what exists, for some of the values it draws."""
    lines = [
        'hooks = "tests.integration.api.rules"',
        "continue-on-failure = true",
        "request-timeout = 20",
        "max-stream-events = 1",  # a stream of changes has no end
        "[generation]",
        "allow-x00 = false",  # refused in every string; test_http_hostile.py sees to it
        'database = "none"',
        "[checks.positive_data_acceptance]",
        # 400 is held to `rules`; 412 is what a tag that was drawn deserves, 428 none at all
        'expected-statuses = ["2xx", "3xx", 400, 403, 404, 409, 412, 428, 503]',
        "[checks.negative_data_rejection]",
        # 413 is what too many items come to
        "expected-statuses = [400, 403, 404, 405, 409, 413, 415, 428, 503]",
        "[warnings]",
        'fail-on = ["unsupported_regex", "missing_deserializer", "method_not_allowed"]',
    ]
    for number, values in enumerate(world.names.values()):
        lines += [f"[dictionaries.d{number}]", f"values = {json.dumps(values)}"]
    lines.append("[parameters]")
    for number, name in enumerate(world.names):
        lines.append(f'"{name}" = {{ dictionary = "d{number}", probability = 0.6 }}')
    written = "\n".join(lines) + "\n"
    tomllib.loads(written)
    return written


async def explore(world: World, directory: Path, *options: str) -> Findings:
    """Run Schemathesis against what is served, with all of its checks and ours."""
    config, report = directory / "schemathesis.toml", directory / "report.json"
    config.write_text(config_of(world))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"),
        *(f"{world.url}/schema", "--checks", "all", "--no-color"),
        *("--report", "json", "--report-json-path", str(report), *options),
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        words, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Findings(json.loads(report.read_text()), words.decode())
