"""What takes telemetry to a collector over OTLP."""

from __future__ import annotations

from opentelemetry.sdk.trace.export import SpanExporter

from bpa.config import Telemetry


def span_exporter(telemetry: Telemetry) -> SpanExporter:
    """Return an exporter of spans to ``telemetry.otlp_endpoint``."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - slow
        OTLPSpanExporter,
    )

    return OTLPSpanExporter(endpoint=f"{telemetry.otlp_endpoint.rstrip('/')}/v1/traces", timeout=5)
