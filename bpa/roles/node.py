"""Role ``node``: executes runs, in the order in which it starts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from litestar import Litestar, Response, get

from bpa.config import Settings
from bpa.container.metering import metering
from bpa.container.node import Worker, open_worker
from bpa.errors import Unavailable
from bpa.node.runtime import NodeState
from bpa.roles.addresses import Addresses
from bpa.roles.control import either, require
from bpa.telemetry.metrics import CONTENT_TYPE, exposition
from bpa.telemetry.pulse import Pulse
from bpa.web_server import serve_http

_NEEDED = {
    "node.control": "host:port of control's node link",
    "anthropic.api_key": "the key for the model provider",
    "http_out.base_url": "full URL of the target API, for deployments that name none",
}


@dataclass(frozen=True, slots=True)
class Node:
    """A running node."""

    worker: Worker
    health: str
    """Base URL of health and metrics."""

    async def registered(self) -> None:
        """Return when control knows the node."""
        await self.worker.runtime.registered()


@asynccontextmanager
async def node(settings: Settings, pulse: Pulse) -> AsyncIterator[Node]:
    """Run a node for as long as the context is open.

    On the way out it drains: no more leases, running ones end within ``node.drain_deadline_s``,
    what is left is handed back.

    Raises:
        SettingsError: Control, the key of the model or the target is not named.
        StartupError: The health port is taken, or a sandbox cannot be confined here.
    """
    require(settings, _NEEDED)
    async with (
        open_worker(settings, pulse.metrics) as worker,
        asyncio.TaskGroup() as background,
    ):
        pulse.look(worker.look)
        watch = background.create_task(_watch(worker))
        async with serve_http(
            health_app(worker), settings.control.host, settings.node.health_port, "node.health_port"
        ) as health:
            runtime = background.create_task(worker.runtime.run())
            try:
                yield Node(worker, health)
            finally:
                await worker.runtime.drain(settings.node.drain_deadline_s)
                await asyncio.wait({runtime})
                watch.cancel()


async def serve(
    settings: Settings, stop: asyncio.Event, announce: Callable[[Addresses], None]
) -> None:
    """Serve role ``node`` until ``stop`` is set; it is announced once control knows it."""
    async with (
        metering(settings, "node") as pulse,
        node(settings, pulse) as running,
    ):
        pulse.look(running.worker.look_at_slots)
        await either(running.registered(), stop.wait())
        if not stop.is_set():
            announce(Addresses(node_health=running.health))
            await stop.wait()


async def _watch(worker: Worker) -> None:
    raise Unavailable(f"the zygote died ({await worker.zygote.died()}); no sandbox can start")


def health_app(worker: Worker) -> Litestar:
    """Return the node's own health and metrics, for probes that speak no gRPC."""

    @get("/livez", sync_to_thread=False)
    def livez() -> dict[str, str]:
        return {"status": "alive"}

    @get(["/readyz", "/startupz"], sync_to_thread=False)
    def readyz() -> Response[NodeState]:
        return Response(worker.runtime.state, status_code=200 if worker.is_ready else 503)

    @get("/metrics", sync_to_thread=False)
    def metrics() -> Response[bytes]:
        return Response(exposition(worker.metrics), media_type=CONTENT_TYPE)

    return Litestar([livez, readyz, metrics], openapi_config=None, logging_config=None)
