"""What the planner last said of the room in the fleet, for ingest to wait on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime

from bpa.domain import DeploymentId
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

    async def wait(self, dep_id: DeploymentId, newer_than: datetime | None) -> int:
        """Wait until a room that knows of ``newer_than`` is above 0, and return it."""
        while True:
            room = self._rooms.get(dep_id)
            fresh = room is not None and (newer_than is None or room.as_of > newer_than)
            if room is not None and fresh and room.runs > 0:
                return room.runs
            await self._published.wait()
