"""The node's side of the zygote: start it, have it fork, learn how children end.

Everything happens in callbacks of the loop: there is no task that could die unnoticed. A child is
forked ahead, so that its start is not waited for; its limits on frames and time start with its
task.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

import bpa
from bpa.errors import StartupError, Unavailable
from bpa.node.confine import Libc, hide_memory
from bpa.node.frames import Failed, Ready, Task
from bpa.node.sandbox import ExitStatus, Sandbox, SandboxLimits
from bpa.node.zygote_main import (
    PACKET_BYTES_MAX,
    Exited,
    Fork,
    Forked,
    FromZygote,
    NotForked,
    Start,
    Started,
)

AGENT_ENTRY = "bpa.node.agent:prepare"

_BOOTSTRAP = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from bpa.node.zygote_main import main; main(int(sys.argv[2]))"
)
_REPORTS = msgspec.msgpack.Decoder(FromZygote)
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 5.0
_SPAWN_TRIES = 3


class Zygote:
    """One zygote process; an async context manager.

    Args:
        limits: What each child may use.
        entry: ``module:function``; called once in the zygote, it returns what each child runs,
            a function of a `bpa.node.channel.Channel`.
        ahead: How many children wait for their task.
        on_start: Hears how many seconds a child was waited for.
    """

    def __init__(
        self,
        *,
        limits: SandboxLimits,
        entry: str = AGENT_ENTRY,
        ahead: int = 1,
        on_start: Callable[[float], None] = lambda _took_s: None,
    ) -> None:
        self._limits = limits
        self._entry = entry
        self._ahead = ahead
        self._on_start = on_start
        self._control: socket.socket | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._children: dict[int, Sandbox] = {}
        self._forks: deque[tuple[asyncio.Future[Sandbox], socket.socket]] = deque()
        self._waiting: deque[asyncio.Future[Sandbox]] = deque()
        self._stopping = False
        self._protections: tuple[str, ...] = ()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    @property
    def pid(self) -> int | None:
        """The zygote's pid; None before `start`."""
        return self._process.pid if self._process is not None else None

    @property
    def protections(self) -> tuple[str, ...]:
        """What its first child found to confine it, of `bpa.domain.sandboxes.Protection`."""
        return self._protections

    async def start(self) -> None:
        """Start the process, again after it died, and wait until it can fork.

        Call it before the node reads its first secret, from the thread that will live longest.

        Raises:
            StartupError: It ended or did not get ready in time (its stderr says more), or a child
                cannot be confined on this machine.
        """
        await self.aclose()
        hide_memory(Libc())
        self._stopping = False
        loop = asyncio.get_running_loop()
        self._died: asyncio.Future[str] = loop.create_future()
        self._started: asyncio.Future[None] = loop.create_future()
        try:
            await self._exec()
            async with asyncio.timeout(_START_TIMEOUT_S):
                await self._started
                first = await self._forked(self._fork(looks=True))
                ready = await self._readiness(first)
                await first.kill()
        except (OSError, Unavailable) as error:  # a timeout is an OSError
            await self.aclose()
            why = str(error) or "no sign of life"
            raise StartupError(f"the zygote did not start ({why}); its stderr says more") from error
        except BaseException:
            await self.aclose()
            raise
        if isinstance(ready, str):
            await self.aclose()
            raise StartupError(f"a sandbox cannot be confined on this machine: {ready}")
        self._protections = ready.protections
        self._fork_ahead()

    async def _exec(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._control = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._on_report)
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-c", _BOOTSTRAP,
                str(Path(bpa.__file__).parent.parent), str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),), env={}, cwd="/",
            )  # fmt: skip
        limits = self._limits
        start = Start(os.getpid(), self._entry, limits.confine, limits.frames)
        ours.send(msgspec.msgpack.encode(start))

    async def died(self) -> str:
        """Wait until the zygote ends without having been asked to, and say how.

        Its children are dead then; `start` starts another.
        """
        reason = await asyncio.shield(self._died)
        code = await self._process.wait() if self._process is not None else None
        return f"{reason}, exit code {code}"

    async def spawn(self, task: Task) -> Sandbox:
        """Return a confined child that has its task.

        Raises:
            Unavailable: The zygote is gone, or its children die before they are ready.
            SandboxProtocolError: The task is larger than a frame may be.
        """
        ready: Ready | str = ""
        since_s = time.monotonic()
        for _ in range(_SPAWN_TRIES):
            pending = self._waiting.popleft() if self._waiting else self._fork()
            self._fork_ahead()
            sandbox = await self._forked(pending)
            ready = await self._readiness(sandbox)
            if isinstance(ready, Ready):
                try:
                    await sandbox.send(task)
                except BaseException:
                    _discard(sandbox)
                    raise
                self._on_start(time.monotonic() - since_s)
                return sandbox
        raise Unavailable(f"no child gets ready: {ready}")

    async def aclose(self) -> None:
        """Stop the zygote and every child that still lives."""
        self._stopping = True
        self._lose("stopped")
        for child in self._children.values():
            child.close()
        self._children.clear()
        process = self._process
        if process is None:
            return
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _forked(self, pending: asyncio.Future[Sandbox]) -> Sandbox:
        try:
            return await pending
        except asyncio.CancelledError:
            if pending.done() and not pending.cancelled() and pending.exception() is None:
                _discard(pending.result())
            raise

    async def _readiness(self, sandbox: Sandbox) -> Ready | str:
        """Wait until a child is confined; if it cannot be, end it and return why."""
        try:
            frame = await sandbox.receive()
        except BaseException:
            _discard(sandbox)
            raise
        if isinstance(frame, Ready) and sandbox.lives:
            return frame
        status = await sandbox.kill()
        return frame.error if isinstance(frame, Failed) else status.reason

    def _fork_ahead(self) -> None:
        with contextlib.suppress(Unavailable):  # then the next spawn says so
            while len(self._waiting) < self._ahead:
                self._waiting.append(self._fork())

    def _fork(self, *, looks: bool = False) -> asyncio.Future[Sandbox]:
        """Order a fork; the future is its child.

        Raises:
            Unavailable: The zygote is gone or does not keep up with its orders, or the node has no
                descriptors left.
        """
        if self._control is None:
            raise Unavailable("the zygote is gone")
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            raise Unavailable(f"the node has no socket for a child: {error}") from error
        ours.setblocking(False)
        with theirs:
            try:
                socket.send_fds(
                    self._control, [msgspec.msgpack.encode(Fork(looks))], [theirs.fileno()]
                )
            except OSError as error:
                ours.close()
                raise Unavailable(f"the zygote takes no orders: {error}") from error
        pending: asyncio.Future[Sandbox] = asyncio.get_running_loop().create_future()
        self._forks.append((pending, ours))
        return pending

    def _on_report(self) -> None:
        """Take every packet that the zygote has sent."""
        while self._control is not None:
            try:
                data, fds, _flags, _address = socket.recv_fds(self._control, PACKET_BYTES_MAX, 1)
            except BlockingIOError:
                return
            except ConnectionError:
                data, fds = b"", []
            if not data:
                self._lose("the zygote's socket closed")
                return
            self._take(_REPORTS.decode(data), fds)

    def _take(self, report: FromZygote, fds: list[int]) -> None:
        match report:
            case Started():
                if not self._started.done():
                    self._started.set_result(None)
            case Forked(pid=pid) if not fds:
                self._orphaned(pid)
            case Forked(pid=pid):
                pending, connection = self._forks.popleft()
                sandbox = Sandbox(pid, fds[0], connection, self._limits)
                self._children[pid] = sandbox
                if pending.done():  # whoever asked was cancelled
                    _discard(sandbox)
                else:
                    pending.set_result(sandbox)
            case NotForked(error=error):
                pending, connection = self._forks.popleft()
                connection.close()
                if not pending.done():
                    pending.set_exception(Unavailable(f"the zygote cannot fork: {error}"))
            case Exited(pid=pid, status=status):
                child = self._children.pop(pid, None)
                if child is None:  # it came without a descriptor
                    return
                code = os.waitstatus_to_exitcode(status)
                child.exited(
                    ExitStatus(
                        code=code if code >= 0 else None,
                        signal=-code if code < 0 else None,
                        cpu_s=report.cpu_s,
                        rss_bytes_max=report.rss_bytes_max,
                    )
                )

    def _orphaned(self, pid: int) -> None:
        """Give up a child whose descriptor the kernel dropped: there was no room for it here.

        Without its socket it ends by itself: it does nothing before its task.
        """
        pending, connection = self._forks.popleft()
        connection.close()
        if not pending.done():
            pending.set_exception(Unavailable(f"the node has no descriptor for child {pid}"))

    def _lose(self, reason: str) -> None:
        """Give up the control socket and whatever depended on it."""
        if self._control is None:
            return
        asyncio.get_running_loop().remove_reader(self._control.fileno())
        self._control.close()
        self._control = None
        for pending, connection in self._forks:
            connection.close()
            if not pending.done():
                pending.set_exception(Unavailable("the zygote is gone"))
        self._forks.clear()
        if not self._started.done():
            self._started.set_exception(Unavailable(reason))
        for child in self._children.values():
            child.abandon()
        for ahead in self._waiting:
            if not ahead.cancelled() and ahead.exception() is None:
                ahead.result().close()
        self._waiting.clear()
        if not self._stopping and not self._died.done():
            self._died.set_result(reason)


def _discard(sandbox: Sandbox) -> None:
    """End a child that nobody will use."""
    sandbox.abandon()
    sandbox.close()
