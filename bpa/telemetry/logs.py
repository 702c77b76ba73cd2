"""Log lines: JSON, an event a line, or readable ones on a terminal.

A line is ``timestamp``, ``level``, ``event``, then ``run_id``, ``trace_id`` and ``span_id`` where
it belongs to a run, then its fields. It holds no payload, no local variable and no secret. What
libraries say is shown from a warning on, whatever the level: below, they quote what they send.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import msgspec
import structlog

from bpa.config import Settings, secrets_of
from bpa.stderr import line_stream
from bpa.telemetry.redaction import redactor

Event = MutableMapping[str, Any]

_FIRST = ("timestamp", "level", "event", "run_id", "trace_id", "span_id")


@contextlib.contextmanager
def logging_of(settings: Settings, role: str) -> Iterator[None]:
    """Log as the settings say for as long as the context is open; at its end, send what waits.

    Lines go to standard error, and to the OTLP endpoint if one is set.
    """
    redact = redactor(secrets_of(settings))
    if not settings.telemetry.otlp_endpoint:
        _configure(settings, role, redact, [])
        yield
        return
    from bpa.telemetry.log_records import (  # noqa: PLC0415 - slow, for those who export only
        open_log_records,
    )

    records = open_log_records(settings, role, redact)
    _configure(settings, role, redact, [records])
    try:
        yield
    finally:
        records.close()


def _configure(
    settings: Settings, role: str, redact: Callable[[str], str], handed_to: list[Any]
) -> None:
    """Send structlog's and the standard library's records to standard error, an event a line."""
    log = settings.log
    stream = line_stream()
    console = log.format == "console" or (log.format == "auto" and sys.stderr.isatty())
    level = getattr(logging, log.level.upper())
    stamped: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _role(role),
    ]
    if console:
        plain = structlog.dev.plain_traceback
        shown: list[Any] = [structlog.dev.ConsoleRenderer(exception_formatter=plain)]
    else:
        shown = [_render_json]
    if handed_to or not console:
        shown = [structlog.processors.format_exc_info, *handed_to, *shown]
    shown.append(lambda _logger, _method, line: redact(line))
    structlog.configure(
        processors=[*stamped, *shown],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*stamped, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *shown],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    # It writes tracebacks of every dropped connection; the connector says it in one line.
    logging.getLogger("azure.servicebus").setLevel(logging.CRITICAL)
    # It warns of every try to connect; the readiness says it when it changes.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


def _role(role: str) -> Any:
    def add(_: object, __: str, event: Event) -> Event:
        event["role"] = role
        return event

    return add


def _render_json(_: object, __: str, event: Event) -> str:
    first = {name: event.pop(name) for name in _FIRST if name in event}
    return msgspec.json.encode({**first, **event}, enc_hook=repr).decode()
