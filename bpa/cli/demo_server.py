"""The server of a demonstration: one of its own as a child process, or the one that runs."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bpa.embedded.processes import ChildProcess, spawn_service
from bpa.errors import StartupError
from bpa.roles.addresses import Addresses

T = TypeVar("T")

LOG_NAME = "serve.log"
_FREE_PORTS = {
    "control.http_port": "0",
    "control.grpc_port": "0",
    "node.health_port": "0",
    "embedded.service_bus_port": "0",
    "embedded.service_bus_admin_port": "0",
    "embedded.anthropic_port": "0",
    "embedded.target_port": "0",
}
"""A demonstration never collides with a server that runs."""


@dataclass(frozen=True, slots=True)
class DemoServer:
    """A server to demonstrate with."""

    addresses: Addresses
    is_fresh: bool
    """Nothing has run on it before, so that whatever is there is the demonstration's."""
    child: ChildProcess | None = None

    async def while_it_lives(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what ``work`` returns, unless the child dies first.

        Raises:
            Unavailable: It died; the message has the reason.
        """
        if self.child is None:
            return await work
        task = asyncio.ensure_future(work)
        watch = asyncio.ensure_future(self.child.watch())
        try:
            await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                watch.result()  # raises: a watch returns in no other way
            return task.result()
        finally:
            for one in (task, watch):
                one.cancel()
            await asyncio.gather(task, watch, return_exceptions=True)


@asynccontextmanager
async def started(
    flags: Mapping[str, str], config: Path | None, data_dir: Path, *, within_s: float
) -> AsyncIterator[DemoServer]:
    """Run ``bpa serve --role all`` as a child on free ports, until the context is left.

    It dies with us, however we end.

    Args:
        flags: Settings from the command line; they win over the free ports.
        config: The settings file, if one was named.
        data_dir: Where its data go; made if it is not there.
        within_s: How long it may take to be ready.

    Raises:
        StartupError: It did not start; the message has its last line.
    """
    is_fresh = _made(data_dir)
    settings = {**_FREE_PORTS, **flags, "data_dir": str(data_dir)}
    argv = [sys.executable, "-P", "-m", "bpa"]
    argv += ["--config", str(config)] if config else []
    argv += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    child, ready = await spawn_service(
        [*argv, "serve", "--role", "all", "--json"],
        name="bpa serve",
        log_path=data_dir / LOG_NAME,
        environment=dict(os.environ),
        ready_timeout_s=within_s,
    )
    try:
        yield DemoServer(msgspec.convert(ready, Addresses), is_fresh, child)
    finally:
        await child.stop()


def _made(data_dir: Path) -> bool:
    """Make the folder if it is not there; say whether it is empty."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return not any(data_dir.iterdir())
    except OSError as error:
        raise StartupError(f"{data_dir} cannot be used ({error.strerror})") from error
