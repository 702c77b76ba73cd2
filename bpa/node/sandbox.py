"""The node's handle of one child: its frames, its end, and the means to end it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from bpa.node.confine import ConfineLimits
from bpa.node.frames import (
    Cancel,
    Decoder,
    Frame,
    FrameLimits,
    FrameRate,
    SandboxProtocolError,
    encode,
)

_CHUNK_BYTES = 65_536


_CONFINE = ConfineLimits()
_FRAMES = FrameLimits()


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What one child may use: of the machine, by the kernel; of the node, by its frames."""

    memory_bytes: int = _CONFINE.memory_bytes
    """Address space beyond the zygote's own."""
    cpu_s: float = _CONFINE.cpu_s
    """Processor time, rounded up to whole seconds."""
    uid: int = _CONFINE.uid
    """User and group of a child when the node runs as root."""
    frame_bytes_max: int = _FRAMES.frame_bytes_max
    """Bytes of one frame, in both directions."""
    frames_max: int = _FRAMES.frames_max
    """Frames that a child may send in all."""
    frames_per_s: float = _FRAMES.frames_per_s
    """Frames that a child may send in a second, sustained and at once."""

    def __post_init__(self) -> None:
        _ = self.confine  # refuses what would not confine

    @property
    def confine(self) -> ConfineLimits:
        """The kernel's part."""
        return ConfineLimits(self.memory_bytes, self.cpu_s, self.uid)

    @property
    def frames(self) -> FrameLimits:
        """The node's part."""
        return FrameLimits(
            frame_bytes_max=self.frame_bytes_max,
            frames_max=self.frames_max,
            frames_per_s=self.frames_per_s,
        )


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a child ended; one of ``code`` and ``signal`` is set."""

    code: int | None
    signal: int | None
    cpu_s: float
    """User and system time; 0 when the zygote died first and nobody counted."""
    rss_bytes_max: int
    """The largest resident set, pages shared with the zygote included."""

    @property
    def reason(self) -> str:
        """The end in a few words."""
        if self.signal is None:
            return f"exit code {self.code}"
        try:
            return f"killed by {signal.Signals(self.signal).name}"
        except ValueError:
            return f"killed by signal {self.signal}"


class Sandbox:
    """One child, from its fork on; an async context manager that leaves no process behind."""

    def __init__(
        self, pid: int, pidfd: int, connection: socket.socket, limits: SandboxLimits
    ) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._connection = connection
        self._frame_limits = limits.frames
        self._loop = asyncio.get_running_loop()
        self._decoder = Decoder(self._frame_limits)
        self._rate = FrameRate(limits.frames_per_s, self._loop.time())
        self._received: deque[Frame] = deque()
        self._reading = False
        self._writing = False
        self._closing = False
        self._exit: asyncio.Future[ExitStatus] = self._loop.create_future()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.kill()

    async def receive(self) -> Frame | None:
        """Return the next frame; None when the child is gone.

        Raises:
            SandboxProtocolError: It wrote something else, or too much; only `kill` makes sense now.
        """
        while not self._received:
            chunk = await self._read()
            if not chunk:
                self._decoder.close()
                self._connection.close()
                return None
            self._received.extend(self._decoder.feed(chunk))
        self._rate.admit(self._loop.time())
        return self._received.popleft()

    async def send(self, frame: Frame) -> None:
        """Write one frame; to a child that is gone, nothing: `receive` tells.

        Raises:
            SandboxProtocolError: The frame is larger than the limit.
        """
        data = encode(frame, self._frame_limits)
        if self._connection.fileno() == -1:
            return
        self._writing = True
        try:
            with contextlib.suppress(ConnectionError):
                await self._loop.sock_sendall(self._connection, data)
        finally:
            self._writing = False

    def cancel(self) -> None:
        """Ask the child to stop; one that computes instead of listening has to be killed.

        A child that does not even read what it is being sent is not asked.
        """
        if self._connection.fileno() == -1 or self._writing:
            return
        with contextlib.suppress(ConnectionError, BlockingIOError):
            self._connection.send(encode(Cancel(), self._frame_limits))

    async def kill(self) -> ExitStatus:
        """End the child now, unless it has ended, and wait until the kernel says so."""
        self._signal_kill()
        try:
            return await self.wait()
        finally:
            self.close()

    @property
    def lives(self) -> bool:
        """Whether the child still runs, as the kernel knows it."""
        if self._exit.done():
            return False
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return not poll.poll(0)

    async def wait(self) -> ExitStatus:
        """Wait until the child has ended."""
        return await asyncio.shield(self._exit)

    def exited(self, status: ExitStatus) -> None:
        """Record the end; called by the zygote that forked the child."""
        if not self._exit.done():
            self._exit.set_result(status)
            os.close(self._pidfd)

    def abandon(self) -> None:
        """Kill without waiting for the end to be reported; what was received stays readable."""
        self._signal_kill()
        self.exited(ExitStatus(None, signal.SIGKILL, cpu_s=0.0, rss_bytes_max=0))

    def close(self) -> None:
        """Close the node's end of the socket; a `receive` that waits does after its next read."""
        self._closing = True
        if not self._reading:
            self._connection.close()

    def _signal_kill(self) -> None:
        if not self._exit.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def _read(self) -> bytes:
        if self._connection.fileno() == -1:
            return b""
        self._reading = True
        try:
            return await self._loop.sock_recv(self._connection, _CHUNK_BYTES)
        except ConnectionError:
            return b""
        finally:
            self._reading = False
            if self._closing:
                self._connection.close()


__all__ = ["ExitStatus", "Sandbox", "SandboxLimits", "SandboxProtocolError"]
