"""Whoever is killed, nothing of ours lives on."""

import asyncio
import os
import signal
import sys

import pytest

from bpa.errors import Unavailable
from bpa.node.sandbox import SandboxLimits
from bpa.node.zygote import Zygote
from tests.eventually import eventually
from tests.integration.node.scripted import PROBES, lives, task

NODE = """
import asyncio
from bpa.node.sandbox import SandboxLimits
from bpa.node.zygote import Zygote
from tests.integration.node.scripted import PROBES, task

async def main():
    async with Zygote(limits=SandboxLimits(), entry=PROBES) as zygote:
        spinner = await zygote.spawn(task("spin"))
        waiting = await zygote.spawn(task("wait"))
        print(zygote.pid, spinner.pid, waiting.pid, flush=True)
        await asyncio.get_running_loop().create_future()

asyncio.run(main())
"""


async def test_nothing_survives_a_node_that_was_killed() -> None:
    node = await asyncio.create_subprocess_exec(
        sys.executable, "-c", NODE, stdout=asyncio.subprocess.PIPE
    )
    assert node.stdout is not None
    pids = [int(pid) for pid in (await node.stdout.readline()).split()]
    assert len(pids) == 3
    assert all(map(lives, pids))
    node.kill()
    await node.wait()
    await eventually(lambda: not any(map(lives, pids)), within_s=2.0)


async def test_a_zygote_that_was_killed_is_reported_and_its_children_die() -> None:
    async with Zygote(limits=SandboxLimits(), entry=PROBES) as zygote:
        spinner = await zygote.spawn(task("spin"))
        assert zygote.pid is not None
        os.kill(zygote.pid, signal.SIGKILL)
        assert "closed" in await zygote.died()
        assert await spinner.receive() is None
        assert (await spinner.wait()).signal == signal.SIGKILL
        await eventually(lambda: not lives(spinner.pid))
        with pytest.raises(Unavailable):
            await zygote.spawn(task("report"))


async def test_a_zygote_that_died_can_be_started_again() -> None:
    async with Zygote(limits=SandboxLimits(), entry=PROBES) as zygote:
        first = zygote.pid
        async with await zygote.spawn(task("wait")):
            assert first is not None
            os.kill(first, signal.SIGKILL)
            await zygote.died()
        await zygote.start()
        assert zygote.pid != first
        async with await zygote.spawn(task("wait")) as child:
            assert child.lives
