"""Role ``control``: the API, the scheduler and the queues, in the order in which they start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bpa.config import Settings
from bpa.container.control import ControlPlane, open_control_plane
from bpa.errors import SettingsError
from bpa.roles.addresses import Addresses

_NEEDED = {
    "postgres.dsn": "the database of runs",
    "redis.url": "the store of slot holds",
    "service_bus.connection_string": "the namespace of the queues",
}


@dataclass(frozen=True, slots=True)
class Control:
    """A running control plane."""

    plane: ControlPlane
    http: str
    """Base URL of REST."""
    grpc: str
    """``host:port`` of the node link."""
    intake: asyncio.Task[None]

    async def close_intake(self) -> None:
        """Take no more messages; what was received goes on."""
        self.intake.cancel()
        await asyncio.wait({self.intake})


@asynccontextmanager
async def control(settings: Settings) -> AsyncIterator[Control]:
    """Run the control plane for as long as the context is open.

    Shutdown is the way back: the intake closes, outcomes are settled, unstarted messages are given
    back, nodes are disconnected, pools are closed.

    Raises:
        SettingsError: A store or the queue is not named.
        StartupError: A port is taken, a connection string makes no sense.
        Unavailable: A store does not answer.
    """
    require(settings, _NEEDED)
    async with open_control_plane(settings) as plane:
        plane.connect()
        async with asyncio.TaskGroup() as background:
            services = [background.create_task(run) for run in plane.services()]
            async with plane.serve_grpc() as grpc, plane.serve_http() as http:
                intake = background.create_task(plane.ingest.run())
                running = Control(plane, http, grpc, intake)
                try:
                    yield running
                finally:
                    await running.close_intake()
                    await plane.settlement.flush()
                    await plane.settlement.abandon_all()
                    await plane.ingest.aclose()
            for service in services:
                service.cancel()


async def serve(
    settings: Settings, stop: asyncio.Event, announce: Callable[[Addresses], None]
) -> None:
    """Serve role ``control`` until ``stop`` is set."""
    async with control(settings) as running:
        announce(Addresses(http=running.http, grpc=running.grpc))
        await stop.wait()


def require(settings: Settings, needed: dict[str, str]) -> None:
    """Refuse settings that leave out what a role cannot start for itself.

    Raises:
        SettingsError: With a line for each.
    """
    problems = []
    for key, what in needed.items():
        section, name = key.split(".")
        if not getattr(getattr(settings, section), name):
            variable = "BPA_" + key.upper().replace(".", "__")
            problems.append(f"{key} is not set: {what}; set {variable} (only role all embeds it)")
    if problems:
        raise SettingsError(problems)
