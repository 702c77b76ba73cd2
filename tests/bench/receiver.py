"""An OTLP/HTTP receiver in a process of its own: takes everything, and counts it.

``python -m tests.bench.receiver PORT`` prints its address; ``GET /counts`` says what it took.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
from aiohttp import web

from tests.integration.telemetry.collectors import REQUESTS

_ITEMS: dict[str, Callable[[Any], int]] = {
    "traces": lambda request: sum(
        len(scope.spans) for one in request.resource_spans for scope in one.scope_spans
    ),
    "metrics": lambda request: sum(
        len(scope.metrics) for one in request.resource_metrics for scope in one.scope_metrics
    ),
    "logs": lambda request: sum(
        len(scope.log_records) for one in request.resource_logs for scope in one.scope_logs
    ),
}


@contextlib.asynccontextmanager
async def receiver(port: int = 0) -> AsyncIterator[str]:
    """Run one; yield its address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.receiver", str(port), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.terminate()
        await process.wait()


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def counts_of(url: str) -> dict[str, int]:
    """Return how many spans, metrics and log records a receiver took."""
    async with aiohttp.ClientSession(url) as session, session.get("/counts") as response:
        counts: dict[str, int] = await response.json()
        return counts


async def _serve() -> None:
    counts = Counter(dict.fromkeys(_ITEMS, 0))

    async def take(request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        signal = request.match_info["signal"]
        counts[signal] += _ITEMS[signal](REQUESTS[signal].FromString(body))
        return web.Response(body=b"", content_type="application/x-protobuf")

    async def say(_: web.Request) -> web.Response:
        return web.json_response(counts)

    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/{signal}", take)
    app.router.add_get("/counts", say)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1])).start()
    sys.stdout.write(f"http://127.0.0.1:{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve())
