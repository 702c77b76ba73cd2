"""What a server of ours speaks to, as small real servers: an OTLP/HTTP collector and a target."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.integration.telemetry.collectors import Taken, attributes, http_collector


@dataclass(frozen=True, slots=True)
class Span:
    """A span as it came over the wire."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    service: str
    attributes: dict[str, Any]
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Collector:
    """An OTLP/HTTP collector, and the spans that it took."""

    taken: Taken

    @property
    def url(self) -> str:
        return self.taken.url

    @property
    def spans(self) -> list[Span]:
        return [
            _span(span, attributes(of_resource.resource.attributes))
            for request in self.taken.requests["traces"]
            for of_resource in request.resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]

    def of_trace(self, trace_id: str) -> list[Span]:
        return [span for span in self.spans if span.trace_id == trace_id]


@dataclass(slots=True)
class Target:
    """A target that keeps what it was sent, headers included."""

    url: str = ""
    posts: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.posts.append((headers, await request.json()))
        return web.json_response({"accepted": True}, status=201)


@contextlib.asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    """Run a collector on a free port."""
    async with http_collector() as taken:
        yield Collector(taken)


@contextlib.asynccontextmanager
async def target() -> AsyncIterator[Target]:
    """Run a target on a free port."""
    made = Target()
    async with _served("/erp/invoices", made.handle) as url:
        made.url = f"{url}/erp/invoices"
        yield made


@contextlib.asynccontextmanager
async def _served(path: str, handler: Any) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post(path, handler)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _span(span: Any, resource: dict[str, Any]) -> Span:
    return Span(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        service=resource.get("service.name", ""),
        attributes=attributes(span.attributes),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
    )
