"""Stores that are there when a test says so, under addresses that are known before."""

import contextlib
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

import psutil

from bpa.config import Control, Postgres, Redis, ServiceBus, Settings
from bpa.embedded.postgres import EmbeddedPostgres
from bpa.embedded.processes import ChildProcess
from bpa.embedded.service_bus import ServiceBusEmulator
from bpa.embedded.valkey import EmbeddedValkey
from tests.integration.connectors.queues import emulator


class Stores:
    """Postgres, Valkey and a Service Bus of one test; none of them runs at first."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._links = Path(tempfile.mkdtemp(prefix="bpa-"))  # a socket's path has to be short
        self._running: dict[str, AsyncExitStack] = {}
        self._children: dict[str, ChildProcess] = {}
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self._bus_port = listener.getsockname()[1]

    @property
    def settings(self) -> Settings:
        host = quote(str(self._links / "postgres"), safe="")
        return Settings(
            postgres=Postgres(dsn=f"postgresql://bpa@/bpa?host={host}"),
            redis=Redis(url=f"unix://{self._links}/valkey/valkey.sock"),
            service_bus=ServiceBus(connection_string=self._bus().connection_string),
            control=Control(http_port=0, grpc_port=0),
        )

    async def start_postgres(self) -> None:
        server = EmbeddedPostgres(self._directory)
        await self._enter("postgres", server)
        self._children["postgres"] = server.process
        sockets = Path(server.dsn.partition("host=")[2].replace("%2F", "/"))
        self._link("postgres", sockets)

    async def start_valkey(self) -> None:
        server = EmbeddedValkey(self._directory)
        await self._enter("valkey", server)
        self._children["valkey"] = server.process
        self._link("valkey", Path(urlsplit(server.url).path).parent)

    async def start_bus(self) -> None:
        """Start the Service Bus, empty."""
        await self._enter("bus", self._bus())

    async def stop(self, name: str) -> None:
        self._children.pop(name, None)
        await self._running.pop(name).aclose()
        (self._links / name).unlink(missing_ok=True)

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """Have every process of a server stand still: it is connected, and says nothing."""
        server = psutil.Process(self._children[name].pid)
        family = [server, *server.children(recursive=True)]
        for process in family:
            process.suspend()
        try:
            yield
        finally:
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    def end_sessions(self) -> int:
        """Kill a Postgres session, which has all the others ended: a crash; return its pid."""
        server = psutil.Process(self._children["postgres"].pid)
        for process in server.children(recursive=True):
            if " idle" in " ".join(process.cmdline()):
                os.kill(process.pid, signal.SIGKILL)
                return process.pid
        raise AssertionError("nobody is connected")

    async def aclose(self) -> None:
        for name in [*self._running]:
            await self.stop(name)
        shutil.rmtree(self._links)

    def _bus(self) -> ServiceBusEmulator:
        return emulator(port=self._bus_port, lock_duration_s=5.0)

    def _link(self, name: str, directory: Path) -> None:
        (self._links / name).symlink_to(directory)

    async def _enter(self, name: str, server: contextlib.AbstractAsyncContextManager) -> None:
        stack = self._running[name] = AsyncExitStack()
        await stack.enter_async_context(server)


@asynccontextmanager
async def stores_of(directory: Path) -> AsyncIterator[Stores]:
    stores = Stores(directory)
    try:
        yield stores
    finally:
        await stores.aclose()
