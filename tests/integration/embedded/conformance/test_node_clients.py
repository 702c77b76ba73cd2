"""The core rules over npm's @azure/service-bus and rhea, where node is found.

The cases are in ``node/cases.mjs``. Their packages are installed once per session, from the lock
file, into a directory of the session's own.
"""

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bpa.embedded.service_bus import QueueConfig, ServiceBusEmulator
from tests.integration.embedded.service_bus import options_for

HERE = Path(__file__).parent / "node"
CASES = re.findall(r"^  async (\w+)\(\) \{", (HERE / "cases.mjs").read_text(), re.MULTILINE)
QUEUES = (
    QueueConfig("invoices", max_delivery_count=10),
    QueueConfig("once", duplicate_window_s=60),
)

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """The directory of the cases, with their packages."""
    directory = tmp_path_factory.mktemp("node") / "cases"
    shutil.copytree(HERE, directory, ignore=shutil.ignore_patterns("node_modules"))
    done = subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, f"npm could not install the clients:\n{done.stdout}{done.stderr}"
    return directory


def test_there_are_cases():
    assert len(CASES) > 10


@pytest.mark.parametrize("case", CASES)
async def test_node(case, installed):
    async with ServiceBusEmulator(options_for(*QUEUES)) as emulator:
        process = await asyncio.create_subprocess_exec(
            "node",
            "cases.mjs",
            emulator.connection_string,
            case,
            cwd=installed,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(40):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, output.decode()
