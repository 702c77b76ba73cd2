"""One HTTP server: uvicorn with httptools, in the loop of everything else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from bpa.errors import StartupError

_SHUTDOWN_S = 3
_BACKLOG = 1024


class _Server(uvicorn.Server):
    """A server that leaves signals to the role: drain needs SIGTERM."""

    def install_signal_handlers(self) -> None:
        return None


@asynccontextmanager
async def serve_http(app: Any, host: str, port: int, setting: str) -> AsyncIterator[str]:
    """Serve an ASGI app for as long as the context is open; yield its base URL.

    Open requests get 3 s to end. A request with both Content-Length and Transfer-Encoding is
    answered 400 (httptools; other parsers let it through).

    Args:
        app: The ASGI application.
        host: The address to listen on.
        port: The port; 0 takes any free one.
        setting: Which setting names the port, for the message when it is taken.

    Raises:
        StartupError: The address cannot be listened on.
    """
    listener = listen(host, port, setting)
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_S,
    )
    server = _Server(config)
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(server._serve([listener]))  # noqa: SLF001 - without signals
        try:
            yield f"http://{host}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await asyncio.wait({serving})


def listen(host: str, port: int, setting: str) -> socket.socket:
    """Return a listening socket.

    Raises:
        StartupError: The address is taken or is not ours; one line that names the setting.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise StartupError(
            f"cannot listen on {host}:{port} ({error.strerror}); set {setting}, 0 for any free port"
        ) from error
    listener.setblocking(False)
    return listener
