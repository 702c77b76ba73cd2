"""A lean HTTP listener for the embedded doubles, and the life of one as a process of its own.

One handler function, no router, no middleware, no access log: a request costs what its handler
costs and about a tenth of a millisecond. Requests in flight are finished before a close returns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Protocol, Self

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from bpa.errors import StartupError

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Listener:
    """Serve ``handler`` on one TCP port.

    Args:
        handler: Answers every request; it maps its own errors to responses.
        host: The address to bind.
        port: The port to bind; 0 picks any free one, which ``port`` then tells.
        port_setting: The setting to name when the port is taken.
        max_body_bytes: A larger body raises ``web.HTTPRequestEntityTooLarge`` in ``read()``.
        finish_s: How long a close waits for requests in flight, in seconds.
        cancels: Cancel the handler of a client that has gone; else it goes on to its end.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        host: str,
        port: int,
        port_setting: str,
        max_body_bytes: int,
        finish_s: float,
        cancels: bool = False,
    ) -> None:
        self._handler = handler
        self._host = host
        self._port = port
        self._port_setting = port_setting
        self._max_body_bytes = max_body_bytes
        self._finish_s = finish_s
        self._cancels = cancels
        self._runner: web.ServerRunner | None = None

    @property
    def port(self) -> int:
        """The bound port; before the start, the one asked for."""
        return self._port

    @property
    def url(self) -> str:
        """The base address, without a trailing slash."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    async def start(self) -> None:
        """Bind and serve.

        Raises:
            StartupError: The address cannot be bound; the message names port and setting.
        """
        server = web.Server(
            self._handler,
            request_factory=self._request,
            access_log=None,
            keepalive_timeout=75.0,
            handler_cancellation=self._cancels,
        )
        runner = web.ServerRunner(server, shutdown_timeout=self._finish_s)
        await runner.setup()
        site = web.TCPSite(runner, self._host, self._port, backlog=1024)
        try:
            await site.start()
        except (OSError, OverflowError) as error:
            await runner.cleanup()
            raise StartupError(
                f"port {self._port} on {self._host} cannot be bound ({_cause(error)}): "
                f"free it or change {self._port_setting} (0 picks any free port)"
            ) from error
        self._runner = runner
        self._port = int(runner.addresses[0][1])

    async def aclose(self) -> None:
        """Stop accepting, finish what is in flight, close the rest. Safe to call twice."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        return web.BaseRequest(
            message,
            payload,
            protocol,
            writer,
            task,
            asyncio.get_running_loop(),
            client_max_size=self._max_body_bytes,
        )


class Service(Protocol):
    """What a process entry needs of an embedded server."""

    @property
    def port(self) -> int:
        """The bound port."""

    @property
    def url(self) -> str:
        """The base address."""

    async def __aenter__(self) -> Self:
        """Start it."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""


async def run_until_signalled(service: Service, name: str, *, as_json: bool) -> None:
    """Start ``service``, say on stdout when it is ready, and close it on SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with service:
        ready = {"event": "ready", "service": name, "port": service.port, "url": service.url}
        line = json.dumps(ready) if as_json else f"{name} is ready at {service.url}"
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        await stop.wait()


def add_listener_arguments(parser: argparse.ArgumentParser, *, default_port: int) -> None:
    """Add ``--host``, ``--port`` and ``--json``."""
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (default %(default)s)")
    parser.add_argument(
        "--port",
        type=int,
        default=default_port,
        help="port to bind, 0 for any free one (default %(default)s)",
    )
    parser.add_argument("--port-setting", default="--port", help=argparse.SUPPRESS)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON line on stdout when ready"
    )


def json_response(
    payload: Any, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """Answer ``payload`` as JSON."""
    return web.Response(
        body=json.dumps(payload, separators=(",", ":")).encode(),
        status=status,
        headers=headers,
        content_type="application/json",
    )


def dropped(request: web.BaseRequest) -> web.Response:
    """Abort the connection under ``request``; the returned response reaches nobody."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _cause(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
