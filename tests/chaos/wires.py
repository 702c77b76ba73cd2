"""A TCP proxy that can cut a connection, or swallow silence into it, both ways or one.

It stands between a node and the control replicas as a load balancer does: each new connection
goes to the next replica that answers. What a blackhole holds back is kept, not lost: TCP would
send it again, and so the bytes arrive, late, when the wire is whole.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

_PIECE = 64 * 1024


@dataclass(slots=True)
class Toll:
    """What a wire has done to those who use it."""

    connections: int = 0
    cut: int = 0
    """Connections that were cut."""
    refused: int = 0
    """Connections that were closed at once: the wire was cut, or nobody answered behind it."""
    held_bytes: int = 0
    """Bytes that came while their direction was held."""


@dataclass(slots=True)
class Wire:
    """One listening port, and who answers behind it.

    Args:
        backends: ``host:port`` of those who may answer, in turns.
    """

    backends: Sequence[str]
    address: str = ""
    toll: Toll = field(default_factory=Toll)
    _turn: int = 0
    _is_cut: bool = False
    _free: dict[str, asyncio.Event] = field(default_factory=dict)
    _open: set[asyncio.Task[None]] = field(default_factory=set)

    @contextlib.asynccontextmanager
    async def laid(self, port: int = 0) -> AsyncIterator[Wire]:
        """Listen for as long as the context is open."""
        self._free = {"up": asyncio.Event(), "down": asyncio.Event()}
        self.mend()
        server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            await self._end_all()

    async def cut(self) -> None:
        """End every connection and refuse new ones until it is mended."""
        self._is_cut = True
        self.toll.cut += len(self._open)
        await self._end_all()

    def hold(self, *directions: str) -> None:
        """Let nothing through: ``up`` is toward the backend, ``down`` is back."""
        for direction in directions:
            self._free[direction].clear()

    def mend(self) -> None:
        """Make it whole; what was held goes on its way."""
        self._is_cut = False
        for free in self._free.values():
            free.set()

    async def _end_all(self) -> None:
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            behind = None if self._is_cut else await self._behind()
            if behind is None:
                self.toll.refused += 1
                return
            self.toll.connections += 1
            try:
                await _first_ended(
                    self._carry("up", reader, behind[1]), self._carry("down", behind[0], writer)
                )
            finally:
                _hang_up(behind[1])
        except asyncio.CancelledError:
            pass  # the wire was cut, or is taken down
        finally:
            self._open.discard(task)
            _hang_up(writer)

    async def _behind(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for _ in self.backends:
            host, _, port = self.backends[self._turn % len(self.backends)].rpartition(":")
            self._turn += 1
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(1.0):
                    return await asyncio.open_connection(host, int(port))
        return None

    async def _carry(
        self, direction: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        free = self._free[direction]
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(_PIECE):
                if not free.is_set():
                    self.toll.held_bytes += len(piece)
                    await free.wait()
                writer.write(piece)
                await writer.drain()


async def _first_ended(*ways: object) -> None:
    """Run both ways until one has ended; then the connection is over."""
    tasks = [asyncio.ensure_future(way) for way in ways]  # type: ignore[call-overload]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _hang_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
