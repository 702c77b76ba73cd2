"""When to look again: as soon as control tells of a change, else every second."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import click

from bpa.cli.api import Api
from bpa.errors import InvalidRequest, NotFound, Unavailable

_LOOK_EVERY_S = 1.0
"""Between two looks while no stream tells of changes."""
_AGAIN_S = 2.0
"""Between two tries to open it."""


class News:
    """Control's stream of changes, as a reason to look again.

    A stream that opens begins with ``refetch`` unless nothing was missed, so that what changes
    between two streams is seen. One that is cut is said to be, once, and taken up again.

    Args:
        api: Control.
        topic: One of `bpa.control.changes.Topic`.
        concerns: Tells by an event's data whether it is about what is watched.
    """

    def __init__(self, api: Api, topic: str, concerns: Callable[[str], bool]) -> None:
        self._api = api
        self._topic = topic
        self._concerns = concerns
        self._due = asyncio.Event()
        self._is_cut = False
        """Whether the stream was lost, and that was said."""
        self._last_id = ""
        self.hears = False
        """Whether a stream is open."""

    @asynccontextmanager
    async def heard(self) -> AsyncIterator[None]:
        """Listen while the context is open."""
        listening = asyncio.ensure_future(self._listen())
        try:
            yield
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening

    async def due(self) -> None:
        """Wait until it is time to look again."""
        if self.hears:
            await self._due.wait()
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._due.wait()
        self._due.clear()

    async def _listen(self) -> None:
        while True:
            try:
                await self._hear()
                why = "control ended its stream of changes"
            except (Unavailable, InvalidRequest, NotFound) as error:
                why = str(error)
            finally:
                heard, self.hears = self.hears, False
                self._due.set()
            if heard or not self._is_cut:
                click.echo(f"{why}; looking every {_LOOK_EVERY_S:g} s meanwhile", err=True)
            self._is_cut = True
            await asyncio.sleep(_AGAIN_S)

    async def _hear(self) -> None:
        async with self._api.events(self._topic, self._last_id) as events:
            async for event in events:
                if self._is_cut:
                    click.echo("control streams its changes again", err=True)
                self.hears, self._is_cut, self._last_id = True, False, event.id
                if event.name == "refetch" or self._concerns(event.data):
                    self._due.set()
