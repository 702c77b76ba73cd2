"""The examples in docs/service-bus-emulator.md do what the page says."""

import asyncio
import os
import re
import sys
from pathlib import Path

from tests.integration.embedded.javascript import FOLDER, missing_javascript
from tests.integration.embedded.service_bus import bus

PAGE = Path(__file__).parents[3] / "docs" / "service-bus-emulator.md"


def example(language):
    (code,) = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return code


async def run(one, *words, stdin=None, **options):
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "SERVICE_BUS": one.emulator.connection_string},
        **options,
    )
    async with asyncio.timeout(60):
        output, complaint = await process.communicate(stdin)
    assert process.returncode == 0, complaint.decode()
    return output.decode()


async def test_the_example_in_python():
    async with bus() as one:
        assert await run(one, sys.executable, "-c", example("python")) == "hello\n"
        assert await one.counts() == (0, 0, 0)


async def test_the_example_in_javascript():
    await missing_javascript()
    async with bus() as one:
        words = ("node", "--input-type=module", "-")
        assert await run(one, *words, stdin=example("js").encode(), cwd=FOLDER) == "hello\n"
        assert await one.counts() == (0, 0, 0)
