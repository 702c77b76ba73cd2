"""OTLP: who exports spans, metrics and log records, and what is said when nobody takes them.

An exporter of ours never fails its caller and never keeps what it could not deliver: a collector
that is away costs metrics and log records, not work and not memory; spans wait in Postgres. After a
failure it is left in peace for a while, so that a process that stops does not wait for it batch by
batch. One log line says when deliveries begin to fail, one when they succeed again, with what was
lost between. Headers (a vendor's key) and certificates come from OpenTelemetry's own variables,
``OTEL_EXPORTER_OTLP_*``.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
import structlog
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from bpa import __version__
from bpa.config import Settings, Telemetry

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

TRY_S = 5.0
"""What a collector has for an answer."""
CLOSE_S = 1.5
"""What a process that stops waits for its last telemetry to be taken."""
_PAUSES_S = (5.0, 10.0, 30.0)
"""How long a collector is left in peace after the first, second and any further failure."""


def span_exporter(telemetry: Telemetry) -> SpanExporter:
    """Return what sends spans to the endpoint of the settings, which name one."""
    delivery = Delivery(
        "traces", telemetry.otlp_endpoint, kept="spans wait in Postgres for an hour"
    )
    return _Spans(_opened(telemetry, "traces", "trace_exporter", "OTLPSpanExporter"), delivery)


def metric_exporter(telemetry: Telemetry) -> MetricExporter:
    """Return what sends metrics to the endpoint of the settings, which name one."""
    exporter = _opened(telemetry, "metrics", "metric_exporter", "OTLPMetricExporter")
    return _Metrics(exporter, Delivery("metrics", telemetry.otlp_endpoint))


def log_exporter(telemetry: Telemetry) -> LogRecordExporter:
    """Return what sends log records to the endpoint of the settings, which name one."""
    exporter = _opened(telemetry, "logs", "_log_exporter", "OTLPLogExporter")
    return _Logs(exporter, Delivery("logs", telemetry.otlp_endpoint))


def _opened(telemetry: Telemetry, signal: str, module: str, name: str) -> Any:
    """Return the library's exporter of a signal, for the protocol of the settings.

    It is imported here because it is slow to import, that of gRPC above all.
    """
    endpoint = telemetry.otlp_endpoint.rstrip("/")
    library = "opentelemetry.exporter.otlp.proto"
    if telemetry.otlp_protocol == "grpc":
        _hush_grpc()
        exporter = getattr(importlib.import_module(f"{library}.grpc.{module}"), name)
        return exporter(endpoint, timeout=TRY_S)
    exporter = getattr(importlib.import_module(f"{library}.http.{module}"), name)
    return exporter(f"{endpoint}/v1/{signal}", timeout=TRY_S, session=_session())


def _session() -> requests.Session:
    """Return a session that says what a collector refused with, which the library does not."""

    def say(response: requests.Response, *_: object, **__: object) -> None:
        if not response.ok:
            told = (response.status_code, response.reason)
            logging.getLogger("opentelemetry.exporter").warning("it answered %d %s", *told)

    session = requests.Session()
    session.hooks["response"].append(say)
    return session


def resource_of(settings: Settings, service: str, instance: str) -> Resource:
    """Return who sends, by OpenTelemetry's conventions."""
    return Resource.create(
        {
            "service.name": service,
            "service.namespace": "bpa",
            "service.version": __version__,
            "service.instance.id": instance,
            "deployment.environment.name": settings.environment,
        }
    )


def closed_within(seconds: float, *closers: Callable[[], object]) -> None:
    """Close several things at once and wait for them no longer than that; call it off the loop."""
    threads = [threading.Thread(target=close, daemon=True) for close in closers]
    until_s = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until_s - time.monotonic()))


def _hush_grpc() -> None:
    """Keep the core of gRPC, loaded next, from lines of its own on standard error, and from forks.

    Its lines are no JSON, and what is wrong with a collector `Delivery` says. Nothing that we fork
    speaks gRPC.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


class Delivery:
    """Whether a collector takes one signal of ours; used by one thread at a time.

    Args:
        signal: What is delivered, for the log.
        endpoint: Where; of it the log shows no more than the host.
        clock: Monotonic seconds.
        kept: Where what is not taken waits, for the log; empty where it is lost.
    """

    def __init__(
        self,
        signal: str,
        endpoint: str,
        clock: Callable[[], float] = time.monotonic,
        *,
        kept: str = "",
    ) -> None:
        parts = urlsplit(endpoint)
        shown = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
        self._about = {"signal": signal, "endpoint": shown}
        self._kept = kept
        self._clock = clock
        self._failures = 0
        self._away_since_s = self._again_at_s = 0.0
        self.dropped = 0
        """Items that were not taken since the collector went away."""
        _WORDS.replace_the_lines_of("opentelemetry")

    def deliver(self, items: int, send: Callable[[], bool]) -> bool:
        """Try to send, unless the collector has just failed; return whether it was taken."""
        if self._failures and self._clock() < self._again_at_s:
            self.dropped += items
            return False
        _WORDS.forget()
        try:
            taken, why = send(), _WORDS.said
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the thread
            taken, why = False, repr(error)
        if taken:
            self._recovered()
        else:
            self._failed(items, why)
        return taken

    def close(self) -> None:
        """Say what was lost, if the collector is still away."""
        if self._failures and not self._kept:
            self._log.warning("telemetry_lost", dropped=self.dropped)

    @property
    def _log(self) -> structlog.stdlib.BoundLogger:
        """A logger by the configuration of now: exporters are opened before it stands."""
        log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(__name__)
        return log.bind(**self._about)

    def _recovered(self) -> None:
        if self._failures:
            away_s = round(self._clock() - self._away_since_s, 1)
            lost = {} if self._kept else {"dropped": self.dropped}
            self._log.info("telemetry_delivered_again", **lost, after_s=away_s)
        self._failures = self.dropped = 0

    def _failed(self, items: int, why: str) -> None:
        self.dropped += items
        if not self._failures:
            self._away_since_s = self._clock()
            self._log.warning(
                "telemetry_not_delivered",
                why=why or "it took nothing",
                effect=f"{self._kept or 'what it does not take is dropped'}; runs go on",
                then="see that the collector runs, and telemetry.otlp_endpoint and otlp_protocol",
            )
        self._again_at_s = self._clock() + _PAUSES_S[min(self._failures, len(_PAUSES_S) - 1)]
        self._failures += 1


class _LastWords(logging.Handler):
    """Keeps a library's first and last line in each thread; else it would write one a try.

    The first has what a collector answered, the last how the tries came to their end.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._of_thread = threading.local()

    def replace_the_lines_of(self, library: str) -> None:
        """Have the library's lines come here and nowhere else."""
        logger = logging.getLogger(library)
        logger.addHandler(self)
        logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line, as the first or as the last."""
        self._of_thread.lines = [*getattr(self._of_thread, "lines", [])[:1], record.getMessage()]

    def forget(self) -> None:
        """Forget the thread's lines."""
        self._of_thread.lines = []

    @property
    def said(self) -> str:
        """The thread's first and last line."""
        return "; ".join(dict.fromkeys(getattr(self._of_thread, "lines", [])))


_WORDS = _LastWords()


class _Spans(SpanExporter):
    def __init__(self, exporter: SpanExporter, delivery: Delivery) -> None:
        self._exporter, self._delivery = exporter, delivery

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        done = SpanExportResult.SUCCESS
        if self._delivery.deliver(len(spans), lambda: self._exporter.export(spans) is done):
            return done
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self._delivery.close()
        self._exporter.shutdown()


class _Logs(LogRecordExporter):
    def __init__(self, exporter: LogRecordExporter, delivery: Delivery) -> None:
        self._exporter: Any = exporter  # its shutdown is untyped
        self._delivery = delivery

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        done = LogRecordExportResult.SUCCESS
        if self._delivery.deliver(len(batch), lambda: self._exporter.export(batch) is done):
            return done
        return LogRecordExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return bool(self._exporter.force_flush(timeout_millis))

    def shutdown(self) -> None:
        self._delivery.close()
        self._exporter.shutdown()


class _Metrics(MetricExporter):
    def __init__(self, exporter: MetricExporter, delivery: Delivery) -> None:
        super().__init__()
        self._exporter, self._delivery = exporter, delivery

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_kwargs: Any
    ) -> MetricExportResult:
        done = MetricExportResult.SUCCESS
        if self._delivery.deliver(1, lambda: self._exporter.export(metrics_data) is done):
            return done
        return MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **_kwargs: Any) -> None:
        self._delivery.close()
        self._exporter.shutdown()
