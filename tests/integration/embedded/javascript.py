"""Programs in JavaScript that use the SDK from npm, where node is found."""

import asyncio
import fcntl
import functools
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
    with (FOLDER / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other workers install here as well
        if not (FOLDER / "node_modules" / ".package-lock.json").exists():
            done = subprocess.run(_INSTALL, cwd=FOLDER, capture_output=True, text=True, timeout=110)
            assert done.returncode == 0, f"npm cannot install the SDK: {done.stderr[-300:]}"
    return None


async def run_node(*words, stdin=None, **environment):
    """Run node in ``conformance/node`` and return what it wrote.

    Skips the test where node is not; where it is and the SDK cannot be had, it fails.
    """
    missing = await asyncio.to_thread(_missing)
    if missing is not None:
        pytest.skip(missing)
    process = await asyncio.create_subprocess_exec(
        "node",
        *words,
        cwd=FOLDER,
        env={"PATH": os.environ["PATH"], **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            output, complaint = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 0, complaint.decode()
    return output.decode()
