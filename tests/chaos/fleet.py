"""Two control replicas and two nodes, supervised as Kubernetes would: what dies starts again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from tests.chaos.pacing import lasting
from tests.chaos.servers import QUEUE, Servers, free_port
from tests.chaos.settlements import LossyBus
from tests.chaos.wires import Wire
from tests.e2e.server import Bpa
from tests.eventually import eventually

ROOT = Path(__file__).parents[2]
REGION = "aus-east"
_PAUSE_S = 0.2
_START_S = 60.0


class Supervised:
    """One ``bpa serve`` that is started again whenever it ends, until it is stopped."""

    def __init__(self, name: str, process: Bpa) -> None:
        self.name = name
        self.process = process
        self.starts = 0
        self.ended_by_itself: list[str] = []
        """How it ended when nobody had asked it to."""
        self.up = asyncio.Event()
        self._asked = False
        self._is_wanted = True
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it, and keep it running from now on."""
        self._task = asyncio.create_task(self._keep_running())
        up = asyncio.create_task(self.up.wait())
        try:
            async with asyncio.timeout(_START_S):
                await asyncio.wait({up, self._task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
        if self._task.done():
            self._task.result()

    async def kill(self) -> None:
        """Kill it, and return when it is gone."""
        self._asked = True
        self.up.clear()
        self.signal(signal.SIGKILL)
        await self.process.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, as SIGSTOP and SIGCONT."""
        self.process.process.send_signal(number)

    async def aclose(self) -> None:
        """Let it go for good."""
        self._is_wanted = False
        if self._task is not None:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGCONT)
            await self.process.end()
            await self._task

    async def _keep_running(self) -> None:
        while self._is_wanted:
            if await self._is_started():
                self._asked = False
                self.up.set()
                code = await self.process.process.wait()
                self.up.clear()
                self._note(f"exit code {code}")
            if self._is_wanted:
                await lasting(_PAUSE_S)

    async def _is_started(self) -> bool:
        self.starts += 1
        try:
            await self.process.start(within_s=_START_S)
        except (AssertionError, TimeoutError) as error:  # it ended before it was ready
            self._note(f"did not start: {str(error)[-300:]}")
            return False
        return True

    def _note(self, how: str) -> None:
        if self._is_wanted and not self._asked:
            self.ended_by_itself.append(f"{self.name}: {how}")


class Fleet:
    """The platform's processes, the wires between nodes and control, and the way to the broker."""

    def __init__(
        self, directory: Path, servers: Servers, settings: Mapping[str, str], slots: int
    ) -> None:
        self._directory = directory
        self._servers = servers
        self._settings = dict(settings)
        self.slots = slots
        """Of each node."""
        self.bus = LossyBus(servers.bus_port)
        self.controls: list[Supervised] = []
        self.nodes: list[Supervised] = []
        self.wires: list[Wire] = []
        """The i-th belongs to the i-th node."""

    @property
    def every(self) -> list[Supervised]:
        """All processes of the platform."""
        return [*self.controls, *self.nodes]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Fleet]:
        """Run two of each, with an agent and a deployment."""
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.bus.served())
            for number in (1, 2):
                control = self._control(f"control-{number}")
                stack.push_async_callback(control.aclose)
                self.controls.append(control)
            await asyncio.gather(*(control.start() for control in self.controls))
            await self._deploy()
            backends = [control.process.addresses["grpc"] for control in self.controls]
            for number in (1, 2):
                turned = backends[number - 1 :] + backends[: number - 1]
                wire = await stack.enter_async_context(Wire(turned).laid())
                self.wires.append(wire)
                node = self._node(f"node-{number}", wire.address)
                stack.push_async_callback(node.aclose)
                self.nodes.append(node)
            await asyncio.gather(*(node.start() for node in self.nodes))
            await self.whole()
            yield self

    async def whole(self, within_s: float = 60.0) -> None:
        """Wait until every process runs and is ready."""

        async def probe() -> bool:
            for one in self.every:
                assert one.up.is_set(), f"{one.name} is not up"
                is_ready, told = await self._read(one, "/readyz")
                assert is_ready, f"{one.name} is not ready: {told}"
            return True

        await eventually(probe, within_s=within_s, every_s=0.1)

    async def state(self, one: Supervised) -> Any:
        """Return what its readiness says; None where it is not ready or does not answer."""
        is_ready, told = await self._read(one, "/readyz")
        return json.loads(told) if is_ready else None

    async def metrics(self, one: Supervised) -> str | None:
        """Return its metrics; None where it does not answer."""
        is_there, told = await self._read(one, "/metrics")
        return told if is_there else None

    async def post(self, path: str, body: Any) -> Any:
        """Post to whichever control answers first in order."""
        url = self.controls[0].process.addresses["http"]
        async with aiohttp.ClientSession(url) as session, session.post(path, json=body) as response:
            assert response.status in (200, 201), await response.text()
            return await response.json()

    def logs(self) -> list[dict[str, Any]]:
        """Return the log lines of all processes."""
        return [line for one in self.every for line in one.process.log_lines()]

    async def _read(self, one: Supervised, path: str) -> tuple[bool, str]:
        """Return whether it answered 200, and what it said, or why it said nothing."""
        addresses = one.process.addresses
        url = addresses.get("http") or addresses.get("node_health")
        timeout = aiohttp.ClientTimeout(total=2.0)
        try:
            async with (
                aiohttp.ClientSession(url, timeout=timeout) as session,
                session.get(path) as response,
            ):
                return response.status == 200, await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            return False, repr(error)

    def _control(self, name: str) -> Supervised:
        words = {
            "postgres.dsn": self._servers.postgres.dsn,
            "redis.url": self._servers.redis_url,
            "service_bus.connection_string": self._servers.bus_by(self.bus.port),
            "control.replica_id": name,
            "control.http_port": str(free_port()),
            "control.grpc_port": str(free_port()),
        }
        return self._supervised(name, "control", words)

    def _node(self, name: str, control: str) -> Supervised:
        words = {
            "node.id": name,
            "node.control": control,
            "node.slots": str(self.slots),
            "node.labels.region": REGION,
            "node.health_port": str(free_port()),
            "anthropic.base_url": self._servers.model_url,
            "anthropic.api_key": "stub",
            "http_out.base_url": f"{self._servers.target_url}/invoices",
        }
        return self._supervised(name, "node", words)

    def _supervised(self, name: str, role: str, words: dict[str, str]) -> Supervised:
        settings = {**self._settings, **words}
        return Supervised(name, Bpa(self._directory / name, role, name=role, **settings))

    async def _deploy(self) -> None:
        agent = json.loads((ROOT / "config/agents/invoice-classifier.json").read_text("utf-8"))
        (path,) = (ROOT / "config/deployments").glob("*.json")
        deployment = json.loads(path.read_text("utf-8"))
        del deployment["inputSchema"]
        resources = {"cpu": "10m", "memory": "16Mi"}  # what limits a node here is its slots
        deployment |= {
            "queue": QUEUE,
            "target": {"slotBudget": 2 * self.slots, "resources": resources},
            "placement": {"affinity": {"region": [REGION]}},
        }
        await self.post("/v1/agents", agent)
        await self.post("/v1/deployments", deployment)
