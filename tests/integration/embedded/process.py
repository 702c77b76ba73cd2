"""Start an embedded server as a process of its own and end it in any way."""

import asyncio
import contextlib
import json
import sys


@contextlib.asynccontextmanager
async def process(module, *arguments):
    """Run ``python -m module`` and yield (process, its ready event); nothing is left behind."""
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        "--port",
        "0",
        "--json",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(30):
            line = await started.stdout.readline()
        assert line, (await started.stderr.read()).decode()
        yield started, json.loads(line)
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()
