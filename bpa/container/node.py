"""What a node is made of."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import anthropic
import httpx2
import structlog
from dishka import Provider, Scope, make_async_container, provide
from structlog.typing import FilteringBoundLogger

from bpa import __version__
from bpa.clocks import Clocks, boottime_s
from bpa.config import Settings
from bpa.connectors.http_out import HttpOut
from bpa.domain.quantities import memory_bytes
from bpa.domain.specs import NodeSpec
from bpa.errors import InvalidRequest, SettingsError
from bpa.manifests import shipped_config
from bpa.node.breakers import Breakers
from bpa.node.executor import Executor
from bpa.node.link import ControlLink
from bpa.node.measure import Measured
from bpa.node.model_calls import ModelCalls
from bpa.node.model_transport import AiohttpTransport
from bpa.node.outlets import Outlets
from bpa.node.pricing import Prices
from bpa.node.providers import AnthropicProvider
from bpa.node.runtime import NodeRuntime
from bpa.node.sandbox import SandboxLimits
from bpa.node.zygote import Zygote
from bpa.telemetry.metrics import Metrics
from bpa.telemetry.senders import node_id_of


@dataclass(frozen=True, slots=True)
class Worker:
    """The parts of a node that a role starts and stops."""

    settings: Settings
    spec: NodeSpec
    runtime: NodeRuntime
    zygote: Zygote
    metrics: Metrics
    measured: Measured

    @property
    def is_ready(self) -> bool:
        """Whether it takes leases."""
        state = self.runtime.state
        return state.registered and not state.draining and state.clock is None

    def look(self) -> None:
        """Show whether the node is ready, and how its targets answer."""
        self.metrics.ready.labels("node").set(self.is_ready)
        self.measured.look()

    def look_at_slots(self) -> None:
        """Show the node's slots as it sees them; in control's process, control shows its own."""
        node_id = self.spec.node_id
        self.metrics.slots_used.labels(node_id).set(self.runtime.state.slots_used)
        self.metrics.slots_capacity.labels(node_id).set(self.spec.slots)


class NodeProvider(Provider):
    """Everything that a node is made of."""

    scope = Scope.APP

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        super().__init__()
        self._settings = settings
        self._metrics = metrics

    @provide
    def settings(self) -> Settings:
        """Return the validated settings."""
        return self._settings

    @provide
    def spec(self, zygote: Zygote) -> NodeSpec:
        """Return what the node says of itself: a fresh boot, what the machine has and confines."""
        node = self._settings.node
        return NodeSpec(
            node_id=node_id_of(self._settings),
            boot_id=uuid.uuid4().hex,
            slots=node.slots,
            labels=node.labels,
            cpu_millis=1000 * len(os.sched_getaffinity(0)),
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            version=__version__,
            protections=[*zygote.protections],
        )

    @provide
    def log(self, spec: NodeSpec) -> FilteringBoundLogger:
        """Return a logger that names the node."""
        log: FilteringBoundLogger = structlog.get_logger("bpa.node")
        return log.bind(node_id=spec.node_id)

    @provide
    def metrics(self) -> Metrics:
        """Return the process's metrics."""
        return self._metrics

    @provide
    def measured(self, metrics: Metrics) -> Measured:
        """Return what turns events into metrics."""
        return Measured(metrics)

    @provide
    async def zygote(self, measured: Measured) -> AsyncIterator[Zygote]:
        """Start the zygote: exec'd with an empty environment."""
        try:
            limits = SandboxLimits(memory_bytes=memory_bytes(self._settings.node.memory))
        except (InvalidRequest, ValueError) as error:
            raise SettingsError([f"node.memory: {error}"]) from error
        async with Zygote(limits=limits, on_start=measured.sandbox_started) as zygote:
            yield zygote

    @provide
    async def models(self, session: aiohttp.ClientSession) -> AsyncIterator[ModelCalls]:
        """Open the model providers; the SDK's own retries are off, ours are on."""
        given = self._settings.anthropic
        async with anthropic.AsyncAnthropic(
            api_key=given.api_key,
            base_url=given.base_url or None,
            max_retries=0,
            timeout=given.timeout_s,
            http_client=httpx2.AsyncClient(transport=AiohttpTransport(session), trust_env=False),
        ) as client:
            yield ModelCalls({"anthropic": AnthropicProvider(client)})

    @provide
    async def session(self) -> AsyncIterator[aiohttp.ClientSession]:
        """Open the client session of effects; cookies of one target must not reach another."""
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            yield session

    @provide
    def outlets(
        self,
        models: ModelCalls,
        session: aiohttp.ClientSession,
        measured: Measured,
    ) -> Outlets:
        """Return what the brokers of all runs share."""
        http_out = self._settings.http_out
        return Outlets(
            models=models,
            sink=HttpOut(session, timeout_s=http_out.timeout_s),
            prices=_prices(self._settings.config_dir),
            measures=measured,
            breakers=Breakers(on_try=measured.target_tried),
            target_url=http_out.base_url,
        )

    @provide
    def executor(self, zygote: Zygote, outlets: Outlets, log: FilteringBoundLogger) -> Executor:
        """Return what executes leases."""
        return Executor(spawner=zygote, outlets=outlets, log=log)

    @provide
    async def link(self, spec: NodeSpec, log: FilteringBoundLogger) -> AsyncIterator[ControlLink]:
        """Open the link to control."""
        control = self._settings.control
        clocks = Clocks(control.clock_skew_max_s, time.time, boottime_s)
        link = ControlLink(address=self._settings.node.control, node=spec, log=log, clocks=clocks)
        async with link:
            yield link

    @provide
    def runtime(
        self, link: ControlLink, executor: Executor, log: FilteringBoundLogger
    ) -> NodeRuntime:
        """Return the node's life."""
        return NodeRuntime(link=link, executor=executor, log=log)

    worker = provide(Worker)


def _prices(config_dir: str) -> Prices:
    path = shipped_config(config_dir) / "prices.toml"
    try:
        return Prices.parse(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"config_dir: {path} cannot be read ({error}); set it"]) from error


@asynccontextmanager
async def open_worker(settings: Settings, metrics: Metrics) -> AsyncIterator[Worker]:
    """Build a node.

    Args:
        settings: What it is to be.
        metrics: The process's.

    Raises:
        StartupError: A child cannot be confined on this machine.
        SettingsError: The price list is wrong.
    """
    container = make_async_container(NodeProvider(settings, metrics))
    try:
        yield await container.get(Worker)
    finally:
        await container.close()
