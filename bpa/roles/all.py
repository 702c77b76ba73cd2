"""Role ``all``: everything in one process, for a laptop; the code paths are those of production.

Servers that no setting names are started as children, then control, then a node that reaches it
over gRPC like any other. Where nothing is deployed, the shipped agent and deployment are.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path

import structlog
from msgspec.structs import replace

from bpa.config import Settings
from bpa.container import LocalStack, local_stack
from bpa.container.control import ControlPlane
from bpa.container.metering import metering
from bpa.control.actors import Door, actor
from bpa.manifests import read_all, shipped_config
from bpa.roles.addresses import Addresses, kept
from bpa.roles.control import Listening, control, either, listening
from bpa.roles.node import node
from bpa.telemetry.pulse import Pulse

_log = structlog.stdlib.get_logger(__name__)
_LOCAL_LABELS = {"region": "aus-east"}
"""What the shipped deployment asks for; settings that name labels replace it."""


async def serve(
    settings: Settings, stop: asyncio.Event, announce: Callable[[Addresses], None]
) -> None:
    """Serve role ``all`` until ``stop`` is set or a child server dies."""
    async with local_stack(settings) as local:
        with contextlib.ExitStack() as until_the_end:
            async with asyncio.TaskGroup() as children:
                watch = children.create_task(local.watch())

                def ready(addresses: Addresses) -> None:
                    until_the_end.enter_context(kept(Path(settings.data_dir), addresses))
                    announce(addresses)

                ours = _with_local(settings, local)
                async with (
                    metering(ours, "all") as pulse,
                    listening(ours, pulse) as here,
                ):
                    await either(here.started(), stop.wait())
                    if not stop.is_set():
                        await _serve_both(ours, local, here, pulse, stop, ready)
                watch.cancel()


async def _serve_both(
    settings: Settings,
    local: LocalStack,
    here: Listening,
    pulse: Pulse,
    stop: asyncio.Event,
    announce: Callable[[Addresses], None],
) -> None:
    """Serve control and a node of it, which stop in the order in which work flows."""
    async with control(here.plane) as plane:
        node_id = settings.node.id or socket.gethostname()
        if local.postgres_dsn:  # the data is ours alone, so whoever was this node before is gone
            await plane.plane.nodes.gone(node_id)
        own = replace(settings.node, control=plane.grpc, id=node_id)
        async with node(replace(settings, node=own), pulse) as worker:
            await _deploy(plane.plane, settings)
            await either(worker.registered(), stop.wait())
            addresses = Addresses(
                http=here.http,
                ui=here.ui,
                grpc=plane.grpc,
                node_health=worker.health,
                service_bus=local.service_bus,
                anthropic=local.anthropic_url,
                target=local.target_url,
                data_dir=settings.data_dir,
            )
            if not stop.is_set():
                announce(addresses)
                await stop.wait()
            await plane.close_intake()


def _with_local(settings: Settings, local: LocalStack) -> Settings:
    """Point the settings that nobody made at the servers we started."""
    labels = settings.node.labels or _LOCAL_LABELS
    changes = {
        "node": replace(settings.node, labels=labels),
        "postgres": local.postgres_dsn and replace(settings.postgres, dsn=local.postgres_dsn),
        "redis": local.redis_url and replace(settings.redis, url=local.redis_url),
        "service_bus": local.service_bus
        and replace(
            settings.service_bus,
            connection_string=local.service_bus,
            administration=local.service_bus_administration,
            administration_ca=local.service_bus_certificate,
        ),
        "anthropic": local.anthropic_url
        and replace(
            settings.anthropic, base_url=local.anthropic_url, api_key=local.anthropic_api_key
        ),
        "http_out": local.target_url
        and replace(settings.http_out, base_url=f"{local.target_url}/invoices"),
    }
    return replace(settings, **{name: section for name, section in changes.items() if section})


async def _deploy(plane: ControlPlane, settings: Settings) -> None:
    """Deploy what is shipped, unless something is deployed in this environment."""
    if await plane.deployments.page(settings.environment):
        return
    config = shipped_config(settings.config_dir)
    agents, deployments = read_all([config / "agents", config / "deployments"])
    for agent in agents:
        await plane.agents.create(agent)
    for deployment in deployments:
        if deployment.environment == settings.environment:
            await plane.deployments.create(deployment, actor(Door.CLI, "bpa serve"))
            _log.info("deployed", agent_id=deployment.agent_id, queue=deployment.queue)
    plane.ingest.deployments_changed()
