"""Programs in JavaScript that use the SDK from npm, where node is found."""

import asyncio
import functools
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "conformance" / "node"
_INSTALL = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]


@functools.cache
def _missing():
    """Install the SDK once, and return why there is none, if so."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "node is not here"
    if (FOLDER / "node_modules" / ".package-lock.json").exists():
        return None
    done = subprocess.run(_INSTALL, cwd=FOLDER, capture_output=True, text=True, timeout=110)
    return None if done.returncode == 0 else f"npm cannot install: {done.stderr[-300:]}"


async def missing_javascript():
    """Skip the test where the SDK cannot be had."""
    missing = await asyncio.to_thread(_missing)
    if missing is not None:
        pytest.skip(missing)


async def run_javascript(program, *arguments, **environment):
    """Run one of the programs in ``conformance/node`` and return the JSON that it wrote."""
    await missing_javascript()
    process = await asyncio.create_subprocess_exec(
        "node",
        program,
        *arguments,
        cwd=FOLDER,
        env={"PATH": os.environ["PATH"], **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            output, complaint = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 0, complaint.decode()
    return json.loads(output)
