"""What the planner last said of the room in the fleet, for ingest to wait on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from bpa.domain.runs import DeploymentId
from bpa.scheduler.rooms import Room


class Rooms:
    """The latest room of each deployment, as the scheduler publishes it after each pass."""

    def __init__(self) -> None:
        self._rooms: Mapping[DeploymentId, Room] = {}
        self._published = asyncio.Event()

    def publish(self, rooms: Mapping[DeploymentId, Room]) -> None:
        """Replace what is known, and wake those who wait."""
        self._rooms = rooms
        self._published.set()
        self._published = asyncio.Event()

    async def wait(self, dep_id: DeploymentId, not_this: Room | None) -> Room:
        """Wait until there is room for a run, as of another moment than ``not_this``."""
        while True:
            room = self._rooms.get(dep_id)
            if room is not None and room.runs > 0 and room is not not_this:
                return room
            await self._published.wait()
