"""Names of spans and metrics, once; how spans, metrics and log lines leave the process.

Spans of one run, one trace::

    receive                 control, child of the sender's span
    +-- plan                control, from received to granted
    +-- lease               control, from offered to acknowledged
    +-- think               node
    |   +-- invoke_agent    +-- chat {model}
    |                       +-- execute_tool post_invoice -- http.out
    +-- complete            control, from the outcome to the settled message

Metrics (``bpa_`` but for the names that the architecture document gives)::

    runs_started_total                counter    agent, version, deployment
    runs_failed_total                 counter    agent, version, deployment, reason
    run_latency_ms                    histogram  agent, version, outcome
    node_slots_used                   gauge      node
    bpa_runs_completed_total          counter    agent, version, deployment
    bpa_messages_settled_total        counter    disposition, result
    bpa_lock_renewals_total           counter    result
    bpa_placement_duration_seconds    histogram  -
    bpa_unplaceable_runs              gauge      reason
    tokens_in, tokens_out, usd_cost   counter    agent, model
    bpa_unpriced_tokens_total         counter    agent, model
    bpa_steps_replayed_total          counter    kind
    bpa_budget_exceeded_total         counter    budget
    bpa_http_out_breaker_open         gauge      host
    bpa_http_out_probes_total         counter    host, result
    bpa_runs_parked_total             counter    host
    bpa_dlq_replayed_total            counter    result
    bpa_leases_fenced_total           counter    -
    bpa_leases_expired_total          counter    -
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, MutableMapping
from typing import Any

import msgspec
import structlog
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bpa import __version__
from bpa.config import Log, Settings

Attributes = Mapping[str, str | int | float | bool]

_PROPAGATOR = TraceContextTextMapPropagator()
_LATENCY_MS = (5, 10, 15, 20, 30, 50, 80, 120, 200, 350, 600, 1000, 2000, 5000, 15000, 60000)
_PLACEMENT_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 30, 120)


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


class Metrics:
    """The process's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        run = ("agent", "version", "deployment")
        self.runs_started = self._counter("runs_started", "Runs first leased", *run)
        self.runs_failed = self._counter("runs_failed", "Runs dead-lettered", *run, "reason")
        self.runs_completed = self._counter("bpa_runs_completed", "Runs completed", *run)
        self.run_latency_ms = Histogram(
            "run_latency_ms",
            "From enqueued at the broker to terminal",
            ("agent", "version", "outcome"),
            buckets=_LATENCY_MS,
            registry=self.registry,
        )
        self.slots_used = Gauge(
            "node_slots_used", "Slots that hold a lease", ("node",), registry=self.registry
        )
        self.settled = self._counter(
            "bpa_messages_settled", "Messages settled", "disposition", "result"
        )
        self.lock_renewals = self._counter("bpa_lock_renewals", "Locks renewed", "result")
        self.placement_s = Histogram(
            "bpa_placement_duration_seconds",
            "From received to granted",
            buckets=_PLACEMENT_S,
            registry=self.registry,
        )
        self.unplaceable = Gauge(
            "bpa_unplaceable_runs", "Waiting runs", ("reason",), registry=self.registry
        )
        model = ("agent", "model")
        self.tokens_in = self._counter("tokens_in", "Tokens read by models", *model)
        self.tokens_out = self._counter("tokens_out", "Tokens written by models", *model)
        self.usd_cost = self._counter("usd_cost", "USD spent on models", *model)
        self.unpriced_tokens = self._counter(
            "bpa_unpriced_tokens", "Tokens that no price is known for", *model
        )
        self.steps_replayed = self._counter(
            "bpa_steps_replayed", "Answers that came from the journal", "kind"
        )
        self.budget_exceeded = self._counter(
            "bpa_budget_exceeded", "Calls that did not fit a budget", "budget"
        )
        self.breaker_open = Gauge(
            "bpa_http_out_breaker_open",
            "Whether no run but a probe goes to the host",
            ("host",),
            registry=self.registry,
        )
        self.probes = self._counter("bpa_http_out_probes", "Probes ended", "host", "result")
        self.runs_parked = self._counter("bpa_runs_parked", "Executions parked", "host")
        self.dlq_replayed = self._counter("bpa_dlq_replayed", "Dead letters replayed", "result")
        self.leases_fenced = self._counter("bpa_leases_fenced", "Reports under a stale lease")
        self.leases_expired = self._counter("bpa_leases_expired", "Leases that lapsed")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)


def configure_logging(log: Log, role: str) -> None:
    """Send structlog's and the standard library's records to standard error, an event a line.

    JSON, or readable lines on a terminal. Tracebacks carry no local variables: they hold payloads.
    """
    console = log.format == "console" or (log.format == "auto" and sys.stderr.isatty())
    level = getattr(logging, log.level.upper())
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _role(role),
    ]
    if console:
        plain = structlog.dev.plain_traceback
        renderer: list[Any] = [structlog.dev.ConsoleRenderer(exception_formatter=plain)]
    else:
        renderer = [structlog.processors.format_exc_info, _render_json]
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    # It writes tracebacks of every dropped connection; the connector says it in one line.
    logging.getLogger("azure.servicebus").setLevel(logging.CRITICAL)
    # It warns of every try to connect; the readiness says it when it changes.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


def _role(role: str) -> Any:
    def add(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["role"] = role
        return event

    return add


def _render_json(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()
