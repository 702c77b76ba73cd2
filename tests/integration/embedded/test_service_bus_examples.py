"""The examples in docs/service-bus-emulator.md do what the page says."""

import asyncio
import os
import re
import sys
from pathlib import Path

from tests.integration.embedded.javascript import run_node
from tests.integration.embedded.service_bus import bus

PAGE = Path(__file__).parents[3] / "docs" / "service-bus-emulator.md"


def example(language):
    (code,) = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return code


async def run_python(code, **environment):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], **environment},
    )
    async with asyncio.timeout(60):
        output, complaint = await process.communicate()
    assert process.returncode == 0, complaint.decode()
    return output.decode()


async def test_the_example_in_python():
    async with bus() as one:
        said = await run_python(example("python"), SERVICE_BUS=one.emulator.connection_string)
        assert said == "hello\n"
        assert await one.counts() == (0, 0, 0)


async def test_the_example_in_javascript():
    async with bus() as one:
        said = await run_node(
            "--input-type=module",
            "-",
            stdin=example("js").encode(),
            SERVICE_BUS=one.emulator.connection_string,
        )
        assert said == "hello\n"
        assert await one.counts() == (0, 0, 0)
