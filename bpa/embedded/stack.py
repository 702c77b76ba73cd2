"""The local default: those of our servers that no setting replaces, started together."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bpa.config import Embedded, Settings
from bpa.embedded.postgres import EmbeddedPostgres
from bpa.embedded.processes import ChildProcess, spawn_service
from bpa.embedded.valkey import EmbeddedValkey
from bpa.errors import BpaError, StartupError

STUB_API_KEY = "stub"
"""The model stub wants a key, any key."""

_ANY_KEY = "SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=SAS_KEY_VALUE"
"""The emulator checks no key."""


@dataclass(slots=True)
class LocalStack:
    """What was started, and how to reach it; empty texts where a setting named the real one."""

    postgres_dsn: str = ""
    redis_url: str = ""
    service_bus: str = ""
    """Connection string of the emulator."""
    service_bus_admin_url: str = ""
    service_bus_administration: str = ""
    """Connection string of its administration, served under a certificate of its own."""
    service_bus_certificate: str = ""
    """Path of that certificate."""
    anthropic_url: str = ""
    anthropic_api_key: str = ""
    target_url: str = ""
    children: dict[str, ChildProcess] = field(default_factory=dict)

    async def watch(self) -> None:
        """Raise ``Unavailable`` with the reason when a server of ours dies."""
        async with asyncio.TaskGroup() as tasks:
            for child in self.children.values():
                tasks.create_task(child.watch())


@asynccontextmanager
async def local_stack(settings: Settings) -> AsyncIterator[LocalStack]:
    """Start what ``settings`` does not name, in parallel, and stop it at the end.

    Raises:
        StartupError: One could not start; the others are stopped again.
    """
    stack = LocalStack()
    data_dir = _made(settings.data_dir)
    async with AsyncExitStack() as exits:
        starts: list[Awaitable[None]] = []
        if not settings.postgres.dsn:
            starts.append(_postgres(stack, exits, data_dir))
        if not settings.redis.url:
            starts.append(_valkey(stack, exits, data_dir))
        if not settings.service_bus.connection_string:
            starts.append(_service_bus(stack, exits, data_dir, settings.embedded))
        if not (settings.anthropic.api_key or settings.anthropic.base_url):
            starts.append(_anthropic(stack, exits, data_dir, settings.embedded))
        if not settings.http_out.base_url:
            starts.append(_target(stack, exits, data_dir, settings.embedded))
        await _together(starts)
        yield stack


def _made(where: str) -> Path:
    data_dir = Path(where).absolute()
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(
            f"the data directory {data_dir} cannot be made ({error.strerror}); set data_dir"
        ) from error
    return data_dir


async def _together(starts: list[Awaitable[None]]) -> None:
    async def start(one: Awaitable[None]) -> None:
        await one

    try:
        async with asyncio.TaskGroup() as tasks:
            for one in starts:
                tasks.create_task(start(one))
    except BaseExceptionGroup as errors:
        known = errors.subgroup(BpaError)
        raise (known or errors).exceptions[0] from None


async def _postgres(stack: LocalStack, exits: AsyncExitStack, data_dir: Path) -> None:
    server = await exits.enter_async_context(EmbeddedPostgres(data_dir))
    stack.postgres_dsn = server.dsn
    stack.children["postgres"] = server.process


async def _valkey(stack: LocalStack, exits: AsyncExitStack, data_dir: Path) -> None:
    server = await exits.enter_async_context(EmbeddedValkey(data_dir))
    stack.redis_url = server.url
    stack.children["valkey"] = server.process


async def _service_bus(
    stack: LocalStack, exits: AsyncExitStack, data_dir: Path, embedded: Embedded
) -> None:
    ready = await _service(
        stack,
        exits,
        data_dir,
        "service_bus",
        *("--host", embedded.host),
        *_port("service_bus_port", embedded.service_bus_port),
        *("--admin-port", str(embedded.service_bus_admin_port)),
        *("--admin-port-setting", "embedded.service_bus_admin_port"),
        *("--admin-tls-port", "0"),
        *("--data-dir", str(data_dir / "service_bus")),
    )
    stack.service_bus = ready["connection_string"]
    stack.service_bus_admin_url = f"http://{embedded.host}:{ready['admin_port']}"
    port = ready["admin_tls_port"]
    stack.service_bus_administration = f"Endpoint=sb://{embedded.host}:{port};{_ANY_KEY}"
    stack.service_bus_certificate = ready["certificate"]


async def _anthropic(
    stack: LocalStack, exits: AsyncExitStack, data_dir: Path, embedded: Embedded
) -> None:
    ready = await _service(
        stack,
        exits,
        data_dir,
        "anthropic",
        *("--host", embedded.host),
        *_port("anthropic_port", embedded.anthropic_port),
        *("--latency-ms", str(embedded.model_latency_ms)),
    )
    stack.anthropic_url = ready["url"]
    stack.anthropic_api_key = STUB_API_KEY


async def _target(
    stack: LocalStack, exits: AsyncExitStack, data_dir: Path, embedded: Embedded
) -> None:
    ready = await _service(
        stack,
        exits,
        data_dir,
        "target",
        *("--host", embedded.host),
        *_port("target_port", embedded.target_port),
        *("--data-dir", str(data_dir / "target")),
    )
    stack.target_url = ready["url"]


def _port(setting: str, port: int) -> tuple[str, ...]:
    """Return the options for a port, and what to call it when it is taken."""
    return "--port", str(port), "--port-setting", f"embedded.{setting}"


async def _service(
    stack: LocalStack, exits: AsyncExitStack, data_dir: Path, name: str, *arguments: str
) -> dict[str, str]:
    """Start one of our own servers as a process and return its ready line."""
    child, ready = await spawn_service(
        [sys.executable, "-P", "-m", f"bpa.embedded.{name}", "--json", *arguments],
        name=name.replace("_", "-"),
        log_path=data_dir / f"{name}.log",
    )
    stop: Callable[[], Awaitable[None]] = child.stop
    exits.push_async_callback(stop)
    stack.children[name] = child
    return ready
