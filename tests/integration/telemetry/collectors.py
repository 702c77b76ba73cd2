"""OTLP collectors, as real servers: over HTTP and gRPC, taking, refusing, or never answering."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
from aiohttp import web
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

REQUESTS = {
    "traces": trace_service_pb2.ExportTraceServiceRequest,
    "metrics": metrics_service_pb2.ExportMetricsServiceRequest,
    "logs": logs_service_pb2.ExportLogsServiceRequest,
}
PROTOCOLS = ("http/protobuf", "grpc")


@dataclass(slots=True)
class Taken:
    """What a collector was sent."""

    url: str = ""
    requests: dict[str, list[Any]] = field(default_factory=lambda: {s: [] for s in REQUESTS})
    metadata: list[dict[str, str]] = field(default_factory=list)

    def metrics(self) -> dict[str, Any]:
        """The metrics of the last request by name."""
        if not self.requests["metrics"]:
            return {}
        (of_resource,) = self.requests["metrics"][-1].resource_metrics
        (of_scope,) = of_resource.scope_metrics
        return {metric.name: metric for metric in of_scope.metrics}

    def records(self) -> list[tuple[dict[str, Any], Any]]:
        """All log records, each with its resource's attributes."""
        return [
            (attributes(of_resource.resource.attributes), record)
            for request in self.requests["logs"]
            for of_resource in request.resource_logs
            for of_scope in of_resource.scope_logs
            for record in of_scope.log_records
        ]


@contextlib.asynccontextmanager
async def http_collector() -> AsyncIterator[Taken]:
    """Run a collector of OTLP/HTTP."""
    taken = Taken()

    async def handle(request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        taken.metadata.append(dict(request.headers))
        signal = request.match_info["signal"]
        taken.requests[signal].append(REQUESTS[signal].FromString(body))
        return web.Response(body=b"", content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/v1/{signal}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        taken.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield taken
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def grpc_collector() -> Iterator[Taken]:
    """Run a collector of OTLP/gRPC."""
    taken = Taken()
    server = grpc.server(futures.ThreadPoolExecutor(2))

    def service(base: Any, signal: str, response: Callable[[], Any]) -> Any:
        class Service(base):  # type: ignore[misc]
            def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
                taken.metadata.append(dict(context.invocation_metadata()))
                taken.requests[signal].append(request)
                return response()

        return Service()

    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(
        service(
            trace_service_pb2_grpc.TraceServiceServicer,
            "traces",
            trace_service_pb2.ExportTraceServiceResponse,
        ),
        server,
    )
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(
        service(
            metrics_service_pb2_grpc.MetricsServiceServicer,
            "metrics",
            metrics_service_pb2.ExportMetricsServiceResponse,
        ),
        server,
    )
    logs_service_pb2_grpc.add_LogsServiceServicer_to_server(
        service(
            logs_service_pb2_grpc.LogsServiceServicer,
            "logs",
            logs_service_pb2.ExportLogsServiceResponse,
        ),
        server,
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    taken.url = f"http://127.0.0.1:{port}"
    try:
        yield taken
    finally:
        server.stop(grace=0).wait()


@contextlib.asynccontextmanager
async def collector_of(protocol: str) -> AsyncIterator[Taken]:
    """Run a collector that speaks a protocol, as the settings name it."""
    if protocol == "grpc":
        with grpc_collector() as taken:
            yield taken
    else:
        async with http_collector() as taken:
            yield taken


def attributes(pairs: Any) -> dict[str, Any]:
    """Return attributes as they came over the wire."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
