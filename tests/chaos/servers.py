"""What a fleet leans on, each a process that can be killed, frozen and started again in place.

In place: on the same port and the same data. Ports lie below the range that the kernel gives to
outgoing connections, so that none of those takes one while its server is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import redis.asyncio as redis

from bpa.embedded.postgres import EmbeddedPostgres
from bpa.embedded.processes import ChildProcess, spawn_service
from bpa.embedded.valkey import server_binary

QUEUE = "invoices"
LOCK_S = 5
"""How long the broker keeps a message locked for a receiver that is gone."""
MAX_DELIVERIES = 30
"""So many faults in a row do not make the broker name the reason."""
_START_S = 60.0
_PORTS = range(20_000, 32_000)


def free_port() -> int:
    """Return a port that nobody listens on now, out of a range that no client is given."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Server:
    """One process of ours that a case may do harm to."""

    def __init__(self, name: str, start: Callable[[], Any]) -> None:
        self.name = name
        self._start = start
        self._child: ChildProcess

    async def start(self) -> None:
        """Start, or start again, on the same port and data."""
        self._child = await self._start()

    async def stop(self) -> None:
        """Ask it to end and wait."""
        await self._child.stop()

    async def kill(self) -> None:
        """Kill it as a power cut does."""
        self.signal(signal.SIGKILL)
        await self._child.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, as SIGSTOP and SIGCONT."""
        os.kill(self._child.pid, number)


class PostgresServer:
    """A Postgres that answers on a TCP port."""

    def __init__(self, directory: Path) -> None:
        self.name = "postgres"
        self._directory = directory
        self._port = free_port()
        self._running: EmbeddedPostgres | None = None
        self.dsn = f"postgresql://bpa@127.0.0.1:{self._port}/bpa"

    async def start(self) -> None:
        """Start, or start again, on the same port and data."""
        # What a kill of the process alone may not take is in the kernel's hands already.
        settings = {"listen_addresses": "127.0.0.1", "port": str(self._port), "fsync": "off"}
        server = EmbeddedPostgres(self._directory, settings=settings)
        self._running = await server.__aenter__()

    async def stop(self) -> None:
        """End it in good order: sessions are told, a checkpoint is written."""
        if self._running is not None:
            running, self._running = self._running, None
            await running.__aexit__(None, None, None)

    async def kill(self) -> None:
        """Kill it; the sessions' processes follow by themselves."""
        assert self._running is not None
        os.kill(self._running.process.pid, signal.SIGKILL)
        await self._running.process.wait()
        await self.stop()

    async def end_sessions(self) -> int:
        """Terminate every session but our own, and return how many there were."""
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as connection:
            ended = await connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where pid <> pg_backend_pid() and backend_type = 'client backend'"
            )
            return len(await ended.fetchall())


class Servers:
    """All of them, and how to ask each for its own account."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._bus_port, self._bus_admin_port = free_port(), free_port()
        self._valkey_port, self._model_port, self._target_port = (free_port() for _ in range(3))
        self.postgres = PostgresServer(directory / "postgres")
        self.valkey = Server("valkey", self._start_valkey)
        self.bus = Server("service-bus", self._start_bus)
        self.model = Server("anthropic", self._start_model)
        self.target = Server("target", self._start_target)
        self.redis_url = f"redis://127.0.0.1:{self._valkey_port}/0"
        self.model_url = f"http://127.0.0.1:{self._model_port}"
        self.target_url = f"http://127.0.0.1:{self._target_port}"
        self.bus_admin_url = f"http://127.0.0.1:{self._bus_admin_port}"

    @property
    def bus_port(self) -> int:
        """Where the broker speaks AMQP."""
        return self._bus_port

    def bus_by(self, port: int) -> str:
        """Return the connection string of the namespace by a way of ours."""
        return (
            f"Endpoint=sb://127.0.0.1:{port};SharedAccessKeyName=RootManageSharedAccessKey;"
            "SharedAccessKey=SAS_KEY_VALUE;UseDevelopmentEmulator=true;"
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Servers]:
        """Run all of them; whatever a case did to them, none is left behind."""
        self._directory.mkdir(parents=True, exist_ok=True)
        every = (self.postgres, self.valkey, self.bus, self.model, self.target)
        async with contextlib.AsyncExitStack() as stack:
            for server in every:
                await server.start()
                stack.push_async_callback(server.stop)
            yield self

    async def end_valkeys_data(self) -> None:
        """Remove what Valkey kept, for its next start; it must not run."""
        await asyncio.to_thread(shutil.rmtree, self._directory / "valkey")

    @contextlib.asynccontextmanager
    async def redis(self) -> AsyncIterator[redis.Redis]:
        """Open a client of Valkey."""
        async with redis.from_url(self.redis_url) as client:
            yield client

    async def get(self, url: str) -> Any:
        """Get a JSON document from one of the doubles."""
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def script(self, url: str, rules: list[dict[str, Any]]) -> None:
        """Tell a double how to behave; no rules make it well again."""
        async with (
            aiohttp.ClientSession() as session,
            session.put(url, json={"rules": rules}) as response,
        ):
            assert response.status == 200, await response.text()

    async def _start_valkey(self) -> ChildProcess:
        data = self._directory / "valkey"
        data.mkdir(exist_ok=True)
        words = {"port": self._valkey_port, "bind": "127.0.0.1", "dir": data}
        words |= {"appendonly": "yes", "save": "", "maxmemory-policy": "noeviction"}
        options = [word for key, value in words.items() for word in (f"--{key}", str(value))]
        log = self._directory / "valkey.log"
        child = ChildProcess("valkey", [server_binary(), *options], log_path=log)
        child.start()
        await child.wait_for_line(lambda line: "Ready to accept" in line, timeout_s=_START_S)
        return child

    async def _start_bus(self) -> ChildProcess:
        config = self._directory / "Config.json"
        properties = {"LockDuration": f"PT{LOCK_S}S", "MaxDeliveryCount": MAX_DELIVERIES}
        queues = [{"Name": QUEUE, "Properties": properties}]
        namespace = {"Name": "sbemulatorns", "Queues": queues, "Topics": []}
        user = {"Namespaces": [namespace], "Logging": {"Type": "Console"}}
        config.write_text(json.dumps({"UserConfig": user}), "utf-8")
        return await self._service(
            "service-bus", self._bus_port,
            *("--admin-port", str(self._bus_admin_port)),
            *("--config", str(config), "--data-dir", str(self._directory / "bus")),
        )  # fmt: skip

    async def _start_model(self) -> ChildProcess:
        return await self._service("anthropic", self._model_port, "--ledger-entries", "100000")

    async def _start_target(self) -> ChildProcess:
        data = str(self._directory / "target")
        return await self._service("target", self._target_port, "--data-dir", data)

    async def _service(self, name: str, port: int, *words: str) -> ChildProcess:
        child, _ = await spawn_service(
            [Path(sys.executable).with_name("bpa"), "emulate", name, "--json",
             "--port", str(port), *words],
            name=name, log_path=self._directory / f"{name}.log", ready_timeout_s=_START_S,
        )  # fmt: skip
        return child
