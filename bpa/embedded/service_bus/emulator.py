"""The emulator as a whole: broker, AMQP port, administration port.

``start`` reads top to bottom as the order in which things come up; ``aclose`` takes them down in
reverse.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog
from aiohttp import web

from bpa.errors import StartupError

from .admin import create_app
from .broker import Broker
from .certificate import CERTIFICATE, server_context
from .config import DEFAULT_NAMESPACE, NamespaceConfig
from .connection import Connection
from .log_events import STARTED, STOPPED
from .metrics import Metrics
from .refusals import Refused
from .tiers import STANDARD, Tier

_GOODBYE_S = 1.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EmulatorOptions:
    """Where the emulator listens and what it serves."""

    host: str = "127.0.0.1"
    port: int = 5672
    """AMQP; 0 takes any free port."""
    admin_port: int | None = 5300
    """HTTP; 0 takes any free port, None has none."""
    port_setting: str = "port"
    """What an error about the port calls it."""
    admin_port_setting: str = "admin_port"
    """What an error about the administration port calls it."""
    admin_tls_port: int | None = None
    """The administration port again, as HTTPS; 0 takes any free port, None has none."""
    admin_tls_port_setting: str = "admin_tls_port"
    """What an error about it calls it."""
    data_dir: Path | None = None
    """Where messages are kept; None keeps them in memory."""
    config: NamespaceConfig = DEFAULT_NAMESPACE
    tier: Tier = STANDARD
    """How large messages, batches and queues may be."""


class ServiceBusEmulator:
    """A Service Bus on this machine; an async context manager.

    Args:
        options: Where it listens and what it serves.
    """

    def __init__(self, options: EmulatorOptions | None = None) -> None:
        self.options = options or EmulatorOptions()
        self.port = self.options.port
        self.admin_port = self.options.admin_port
        self.admin_tls_port = self.options.admin_tls_port
        self.certificate: Path | None = None
        """What a client of the HTTPS port must trust; there once it has started."""
        self._connections: set[Connection] = set()
        self._stack = AsyncExitStack()
        self._broker: Broker | None = None

    @property
    def connection_string(self) -> str:
        """What a client of this emulator is given; good once it has started."""
        return connection_string(self.options.host, self.port)

    async def start(self) -> None:
        """Bring everything up.

        Raises:
            StartupError: A port is taken, or the data directory cannot be used; one line.
        """
        async with AsyncExitStack() as stack:
            options = self.options
            broker = Broker(options.config, options.data_dir, options.tier)
            stack.push_async_callback(broker.aclose)
            await broker.start()
            await self._listen(broker, stack)
            await self._listen_for_admin(broker, stack)
            self._broker = broker
            self._stack = stack.pop_all()
        _log.info(STARTED, port=self.port, admin_port=self.admin_port, host=options.host)

    async def aclose(self) -> None:
        """Stop listening, let clients go, write what is left."""
        await self._stack.aclose()
        if self._broker is not None:
            self._broker = None
            _log.info(STOPPED, port=self.port)

    async def wait_failed(self) -> StartupError:
        """Return when messages can no longer be kept, with the reason; nothing is accepted then."""
        assert self._broker is not None, "start() comes first"
        error = await asyncio.shield(self._broker.failure)
        return StartupError(f"{self.options.data_dir}: cannot be written: {error.strerror}")

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _listen(self, broker: Broker, stack: AsyncExitStack) -> None:
        options = self.options
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(
                lambda: Connection(broker, self._connections), options.host, options.port
            )
        except OSError as error:
            raise _taken(options.host, options.port, options.port_setting, error) from error
        broker.on_deleted = self._close_links
        self.port = server.sockets[0].getsockname()[1]
        stack.push_async_callback(self._let_clients_go)
        stack.callback(server.close)

    def _close_links(self, paths: frozenset[str], refusal: Refused) -> None:
        for connection in list(self._connections):
            connection.close_links_to(paths, refusal)

    async def _let_clients_go(self) -> None:
        for connection in list(self._connections):
            connection.shut_down()
        if self._connections:
            gone = [connection.gone for connection in self._connections]
            await asyncio.wait(gone, timeout=_GOODBYE_S)
        for connection in list(self._connections):
            connection.abort()

    async def _listen_for_admin(self, broker: Broker, stack: AsyncExitStack) -> None:
        options = self.options
        metrics = Metrics(broker, self._connections)
        runner = web.AppRunner(create_app(broker, metrics), access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        if options.admin_port is not None:
            setting = options.admin_port_setting
            self.admin_port = await self._serve_admin(runner, options.admin_port, setting, None)
        if options.admin_tls_port is not None:
            directory = options.data_dir or Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="bpa-service-bus-"))
            )
            context = await asyncio.to_thread(server_context, directory, options.host)
            self.certificate = directory / CERTIFICATE
            setting = options.admin_tls_port_setting
            self.admin_tls_port = await self._serve_admin(
                runner, options.admin_tls_port, setting, context
            )

    async def _serve_admin(
        self, runner: web.AppRunner, port: int, setting: str, context: ssl.SSLContext | None
    ) -> int:
        host = self.options.host
        site = web.TCPSite(runner, host, port, ssl_context=context)
        try:
            await site.start()
        except OSError as error:
            raise _taken(host, port, setting, error) from error
        bound: int = runner.addresses[-1][1]
        return bound


def connection_string(host: str, port: int) -> str:
    """Return what a client of an emulator there is given."""
    return (
        f"Endpoint=sb://{host}:{port};"
        "SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=SAS_KEY_VALUE;"
        "UseDevelopmentEmulator=true;"
    )


def _taken(host: str, port: int, setting: str, error: OSError) -> StartupError:
    number = error.errno or 0  # below zero for a host that is not found: no number of the system's
    reason = os.strerror(number) if number > 0 else error.strerror or str(error)
    return StartupError(
        f"Service Bus emulator: cannot listen on {host}:{port} ({reason}); set another {setting}"
    )
