"""Log lines as OpenTelemetry's records: a processor of structlog's that hands each on.

A record's body is the event's name; its attributes are the fields. What is handed on waits in a
bounded queue for a thread of the SDK's: a collector that is away costs records.
"""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping
from typing import Any

import msgspec
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    set_span_in_context,
)

from bpa import __version__
from bpa.config import Settings
from bpa.telemetry.otlp import CLOSE_S, closed_within, log_exporter, resource_of
from bpa.telemetry.senders import sender_of

_QUEUE_MAX = 2048
_BATCH_MAX = 512
_EVERY_MS = 1000
_SEVERITIES = {
    "debug": SeverityNumber.DEBUG,
    "info": SeverityNumber.INFO,
    "warning": SeverityNumber.WARN,
    "error": SeverityNumber.ERROR,
    "exception": SeverityNumber.ERROR,
    "critical": SeverityNumber.FATAL,
}
_NOT_FIELDS = frozenset({"event", "level", "timestamp", "trace_id", "span_id"})
_NO_CONTEXT = Context()


class LogRecords:
    """Hands log events to an exporter; a processor for structlog.

    Args:
        provider: Takes the records.
        redact: Takes secrets out of a text.
    """

    def __init__(self, provider: LoggerProvider, redact: Callable[[str], str]) -> None:
        self._provider = provider
        self._logger = provider.get_logger("bpa", __version__)
        self._redact = redact

    def __call__(
        self, _logger: object, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Hand an event on; it goes on as it came."""
        level = str(event.get("level", "info"))
        record = LogRecord(
            timestamp=time.time_ns(),
            observed_timestamp=time.time_ns(),
            context=_context(event.get("trace_id"), event.get("span_id")),
            severity_text=level.upper(),
            severity_number=_SEVERITIES.get(level, SeverityNumber.UNSPECIFIED),
            body=self._redact(str(event.get("event", ""))),
            attributes={
                name: self._value(value)
                for name, value in event.items()
                if value is not None and name not in _NOT_FIELDS
            },
        )
        self._logger.emit(record)
        return event

    def close(self) -> None:
        """Send what waits, within a second or two."""
        closed_within(CLOSE_S, self._provider.shutdown)

    def _value(self, value: object) -> str | int | float | bool:
        if isinstance(value, str):
            return self._redact(value)
        if isinstance(value, int | float):
            return value
        return self._redact(msgspec.json.encode(value, enc_hook=repr).decode())


def open_log_records(settings: Settings, role: str, redact: Callable[[str], str]) -> LogRecords:
    """Return what sends log records to the endpoint of the settings, which name one."""
    resource = resource_of(settings, *sender_of(settings, role))
    provider = LoggerProvider(resource, shutdown_on_exit=False)
    provider.add_log_record_processor(
        BatchLogRecordProcessor(
            log_exporter(settings.telemetry),
            schedule_delay_millis=_EVERY_MS,
            max_export_batch_size=_BATCH_MAX,
            max_queue_size=_QUEUE_MAX,
        )
    )
    return LogRecords(provider, redact)


def _context(trace_id: object, span_id: object) -> Context:
    """Return the context of the span that an event names; only its trace may be known."""
    try:
        trace, span = int(str(trace_id), 16), int(str(span_id), 16) if span_id else 0
    except ValueError:
        return _NO_CONTEXT
    of_event = SpanContext(trace, span, is_remote=True, trace_flags=TraceFlags(1))
    return set_span_in_context(NonRecordingSpan(of_event), _NO_CONTEXT)
