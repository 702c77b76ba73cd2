"""A whole node: link, runtime, zygote, broker, with everything outside it real."""

import asyncio
import contextlib

import pytest
import structlog

from bpa.config import load
from bpa.container.node import open_worker
from bpa.domain.executions import OutcomeKind
from bpa.domain.specs import NodeSpec
from bpa.errors import SettingsError
from bpa.node.executor import Executor
from bpa.node.link import ControlLink
from bpa.node.runtime import NodeRuntime
from bpa.node.sandbox import SandboxLimits
from bpa.node.zygote import Zygote
from bpa.telemetry.metrics import Metrics
from tests.eventually import eventually
from tests.integration.node.control_server import ControlServer, an_offer, serving
from tests.integration.node.outside import ROUTES, WIRE, outside

RUNS = [f"run{n}" for n in range(6)]


@contextlib.asynccontextmanager
async def a_node(address, world, *, slots=8):
    spec = NodeSpec(node_id="n1", boot_id="b1", slots=slots)
    log = structlog.get_logger()
    async with (
        Zygote(limits=SandboxLimits()) as zygote,
        ControlLink(address=address, node=spec, log=log) as link,
        asyncio.TaskGroup() as group,
    ):
        executor = Executor(spawner=zygote, outlets=world.outlets, log=log)
        runtime = NodeRuntime(link=link, executor=executor, log=log)
        group.create_task(runtime.run())
        try:
            yield runtime
        finally:
            await runtime.drain(5.0)


def offer_all(control):
    for name in RUNS:
        control.offer(an_offer(name, document=WIRE, routes=ROUTES, effect_key=f"{name}:1"))


@pytest.fixture
def address(tmp_path):
    return str(tmp_path / "link")


async def test_every_offered_run_is_posted_once_and_reported_once(address):
    control = ControlServer()
    async with outside() as world, serving(control, address), a_node(address, world):
        offer_all(control)
        await eventually(lambda: len(control.outcomes) == len(RUNS))
        assert {o.kind for _, _, o in control.outcomes} == {OutcomeKind.COMPLETED}
        assert {r["key"] for r in await world.received()} == {f"{n}:1" for n in RUNS}
    for name in RUNS:
        steps = [s for r, _, s in control.steps if r == name]
        assert [(s.seq, s.answer is not None) for s in steps] == [
            (0, False),
            (0, True),
            (1, False),
        ]


async def test_runs_survive_the_restart_of_control(address):
    control = ControlServer()
    async with outside() as world:
        await world.script_model({"latency_ms": 150})
        async with contextlib.AsyncExitStack() as stack:
            server = contextlib.AsyncExitStack()
            await server.enter_async_context(serving(control, address))
            await stack.enter_async_context(a_node(address, world))
            offer_all(control)
            await eventually(lambda: len(control.acknowledged) == len(RUNS))
            await server.aclose()
            async with serving(control, address):
                await eventually(lambda: len(control.outcomes) >= len(RUNS))
                await stack.aclose()
        assert {o.kind for _, _, o in control.outcomes} == {OutcomeKind.COMPLETED}
        assert len(await world.received()) == len(RUNS)


@pytest.mark.parametrize(
    ("setting", "value"), [("node.memory", "lots"), ("config_dir", "/nonexistent")]
)
async def test_a_setting_that_no_node_can_have_is_named(setting, value):
    given = {"node.control": "127.0.0.1:1", setting: value}
    environ = {"BPA_ANTHROPIC__API_KEY": "k"}
    with pytest.raises(SettingsError, match=f"^{setting}: .*{value}"):
        async with open_worker(load(environ, flags=given).settings, Metrics()):
            raise AssertionError("it was opened")
