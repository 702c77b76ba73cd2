"""Log lines: JSON, an event a line, or readable ones on a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import msgspec
import structlog

from bpa.config import Log
from bpa.stderr import line_stream


def configure_logging(log: Log, role: str) -> None:
    """Send structlog's and the standard library's records to standard error, an event a line.

    JSON, or readable lines on a terminal. Tracebacks carry no local variables: they hold payloads.
    """
    stream = line_stream()
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
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
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
