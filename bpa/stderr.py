"""Standard error for log lines: one that nobody reads costs lines, never the process.

A pipe whose reader has stopped fills up, and a write to it waits for ever: the event loop that
logged a line would wait with it. So a write asks first whether there is room. Where there is none
it waits once, for ``_PATIENCE_MS``; from then on lines are dropped until there is room again, and
the first line that fits is preceded by how many. The kernel's buffer of the pipe is the queue.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from typing import TextIO, cast

import structlog

_STDERR = 2
_PATIENCE_MS = 50
_DROPPED = '{{"event": "log_lines_dropped", "level": "warning", "lines": {}}}\n'


class LineStream:
    """A text stream for loggers, which write whole lines.

    Args:
        fd: Where they go.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._patience_ms = _PATIENCE_MS
        self._lock = threading.Lock()
        self._dropped = 0
        self._torn = False

    def write(self, text: str) -> int:
        """Write a line, or count it as dropped; return how many characters it has."""
        with self._lock:
            if self._dropped and self._put(_DROPPED.format(self._dropped)):
                self._dropped = 0
            if self._dropped or not self._put(text):
                self._dropped += 1
        return len(text)

    def flush(self) -> None:
        """Do nothing: no line is held back."""

    def _put(self, text: str) -> bool:
        line = ("\n" if self._torn else "") + text
        data = memoryview(line.encode("utf-8", "backslashreplace"))
        left = data
        with contextlib.suppress(OSError):  # there is nobody to tell
            while left and self._has_room():
                left = left[os.write(self._fd, left[: select.PIPE_BUF]) :]
        self._torn = 0 < len(left) < len(data)
        return not left

    def _has_room(self) -> bool:
        """Whether PIPE_BUF bytes can be written at once."""
        found = bool(self._poll.poll(self._patience_ms))
        self._patience_ms = _PATIENCE_MS if found else 0
        return found


def line_stream() -> TextIO:
    """Return this process's standard error for loggers."""
    return cast("TextIO", LineStream(_STDERR))  # of which they use write and flush


def log_json_lines() -> None:
    """Write log events as lines of JSON to standard error, so that stdout carries data alone."""
    stream = line_stream()
    logging.basicConfig(stream=stream, level=logging.WARNING)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(stream),
    )
