"""Role ``control``: the API, the scheduler and the queues, in the order in which they start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from bpa.config import Settings
from bpa.container.control import ControlPlane, open_control_plane
from bpa.container.metering import metering
from bpa.errors import SettingsError
from bpa.roles.addresses import Addresses
from bpa.telemetry.pulse import Pulse

_log = structlog.stdlib.get_logger(__name__)
_NEEDED = {
    "postgres.dsn": "the database of runs",
    "redis.url": "the store of slot holds",
    "service_bus.connection_string": "the namespace of the queues",
}


@dataclass(frozen=True, slots=True)
class Listening:
    """A control plane that answers probes; it has yet to take its place."""

    plane: ControlPlane
    http: str
    """Base URL of REST."""

    @property
    def ui(self) -> str:
        """The address of the pages."""
        return f"{self.http}/ui"

    async def started(self) -> None:
        """Return when Postgres is there and its schema in place."""
        await self.plane.readiness.started.wait()


@dataclass(frozen=True, slots=True)
class Control:
    """A running control plane."""

    plane: ControlPlane
    grpc: str
    """``host:port`` of the node link."""
    intake: asyncio.Task[None]

    async def close_intake(self) -> None:
        """Take no more messages; what was received goes on."""
        self.intake.cancel()
        await asyncio.wait({self.intake})


@asynccontextmanager
async def listening(settings: Settings, pulse: Pulse) -> AsyncIterator[Listening]:
    """Answer probes for as long as the context is open, whatever is there; migrate when it is.

    Until the schema is in place, REST answers 503 with what it waits for.

    Raises:
        SettingsError: A store or the queue is not named.
        StartupError: A port is taken, a connection string makes no sense, a migration fails, the
            database is another namespace's.
    """
    require(settings, _NEEDED)
    async with (
        open_control_plane(settings, pulse.metrics) as plane,
        asyncio.TaskGroup() as watching,
    ):
        pulse.look(plane.look)
        async with plane.serve_http() as http:
            _log.info("listening", http=http)
            watch = watching.create_task(plane.readiness.run())
            yield Listening(plane, http)
        watch.cancel()


@asynccontextmanager
async def control(plane: ControlPlane) -> AsyncIterator[Control]:
    """Run the control plane, once its schema is in place, for as long as the context is open.

    Valkey and the queues may still be away: nodes are served all the same, runs wait and say so.
    Shutdown is the way back: the intake closes, outcomes are settled, unstarted messages are given
    back, nodes are disconnected.

    Raises:
        StartupError: A port is taken.
    """
    plane.connect()
    async with asyncio.TaskGroup() as background:
        services = [background.create_task(run) for run in plane.services()]
        async with plane.serve_grpc() as grpc:
            running = Control(plane, grpc, background.create_task(plane.ingest.run()))
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
    async with (
        metering(settings, "control") as pulse,
        listening(settings, pulse) as here,
    ):
        await either(here.started(), stop.wait())
        if stop.is_set():
            return
        async with control(here.plane) as running:
            announce(Addresses(http=here.http, ui=here.ui, grpc=running.grpc))
            await stop.wait()


async def either(*work: Coroutine[Any, Any, object]) -> None:
    """Return when one of them is done; the others are cancelled."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


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
