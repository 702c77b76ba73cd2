"""Spans whose parents come from other processes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from bpa import __version__
from bpa.config import Settings

Attributes = Mapping[str, str | int | float | bool]

_PROPAGATOR = TraceContextTextMapPropagator()


class Tracing:
    """Spans whose parents come from other processes, and which begin before we write them."""

    def __init__(self, provider: TracerProvider) -> None:
        self.tracer = provider.get_tracer("bpa", __version__)
        self._provider = provider

    @staticmethod
    def now_ns() -> int:
        """Return the wall clock as spans use it, in nanoseconds."""
        return time.time_ns()

    @staticmethod
    def parent(traceparent: str, tracestate: str = "") -> Any:
        """Return the OpenTelemetry context that W3C headers name; an empty one for bad headers."""
        carrier = {"traceparent": traceparent, "tracestate": tracestate}
        return _PROPAGATOR.extract(carrier)

    def record(
        self,
        name: str,
        traceparent: str,
        start_ns: int,
        attributes: Attributes,
        *,
        tracestate: str = "",
        kind: trace.SpanKind = trace.SpanKind.INTERNAL,
    ) -> tuple[str, str]:
        """Write a span that began at ``start_ns`` and ends now.

        Returns:
            Its own traceparent, for its children, and its trace id in hex.
        """
        span = self.tracer.start_span(
            name,
            context=self.parent(traceparent, tracestate),
            kind=kind,
            attributes=dict(attributes),
            start_time=min(start_ns, self.now_ns()),  # it may be another clock's, ahead of ours
        )
        span.end()
        own = span.get_span_context()
        trace_id = format(own.trace_id, "032x")
        return f"00-{trace_id}-{own.span_id:016x}-{own.trace_flags:02x}", trace_id

    def close(self) -> None:
        """Send what is still waiting."""
        self._provider.shutdown()


def open_tracing(settings: Settings, service: str, instance: str) -> Tracing:
    """Return the process's tracing; spans are exported when an OTLP endpoint is set.

    Export happens on a thread of the SDK's, in batches from a bounded queue: a collector that is
    away costs spans, never runs.
    """
    resource = Resource.create(
        {
            "service.name": service,
            "service.namespace": "bpa",
            "service.version": __version__,
            "service.instance.id": instance,
            "deployment.environment.name": settings.environment,
        }
    )
    provider = TracerProvider(resource=resource)
    endpoint = settings.telemetry.otlp_endpoint.rstrip("/")
    if endpoint:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - slow
            OTLPSpanExporter,
        )

        exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces", timeout=5)
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=500))
    return Tracing(provider)
