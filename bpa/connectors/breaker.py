"""One host's circuit breaker, as one node sees it: stop sending where too much fails. Pure.

The node's breaker is a fuse: it opens by what the node itself sees, at once, and never closes by
itself. Whether the host answers again is found out for the whole fleet, by one probe at a time
(`bpa.scheduler.breakers`); a node hears of it with its next offer, which carries how often the
fleet's breaker of the host has closed so far. A run that was offered before does not pass.

What counts: 5xx, 429 and no answer at all (connection, timeout) are failures, as these are what is
tried again until `RetriesExhausted`. 409 says nothing: the target still works on that one key.
Everything else is an answer, 4xx included: a target that refuses a request is there.

The window is the last twenty requests, none older than five minutes, without the failures of runs
that were answered in the end. So a target of which half still works never opens the breaker,
however many messages it fails for; and one that has just gone away opens it with the tenth failure,
however much it had answered before.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from bpa.domain.executions import Admission
from bpa.domain.journal import HOST_CHARS_MAX

_TOO_MANY_REQUESTS = 429
STILL_IN_FLIGHT = 409
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """What it takes to open a breaker."""

    runs: int = 3
    """Different runs that failed: one run, or two, always get their tries."""
    requests: int = 10
    """Failed requests."""
    window: int = 20
    """Requests looked back at, answered ones included."""
    window_s: float = 300.0
    """Seconds looked back at; long, as a target that hangs fails once in a timeout."""


RULES = BreakerRules()


class _Request(NamedTuple):
    at_s: float
    run_id: str
    failed: bool


class Breaker:
    """The breaker of one host.

    Args:
        rules: What it takes to open it.
    """

    def __init__(self, rules: BreakerRules = RULES) -> None:
        self._rules = rules
        self._recent: deque[_Request] = deque(maxlen=rules.window)
        self.closings = 0
        """How often the fleet's breaker has closed, as far as the node has heard."""
        self.is_open = False
        self.last_error = ""
        """What the last failed request came to."""

    def admits(self, admission: Admission, *, failures: int = 0) -> bool:
        """Say whether a run may send its next request.

        Args:
            admission: What came with the run's offer. News of a closing closes this breaker.
            failures: Requests of the execution that have failed; a probe ends with the first.
        """
        if admission.closings > self.closings:
            self.closings = admission.closings
            self.is_open = False
            self._recent.clear()
        if admission.probe:
            return failures == 0
        return not self.is_open

    def note(self, now_s: float, run_id: str, status: int | None, *, sent_under: int) -> bool:
        """Take what a request came to; say whether it opened the breaker.

        Args:
            now_s: Any monotonic clock.
            run_id: Whose request it was.
            status: Of the answer; None if there was none.
            sent_under: ``closings`` when it was sent: a failure from before a closing is old news.
        """
        failed = is_failure(status)
        if failed:
            self.last_error = "no answer" if status is None else f"HTTP {status}"
        if status == STILL_IN_FLIGHT or sent_under < self.closings:
            return False
        if not failed:
            got_through = [r for r in self._recent if not (r.failed and r.run_id == run_id)]
            self._recent = deque(got_through, maxlen=self._rules.window)
        self._recent.append(_Request(now_s, run_id, failed))
        was_open, self.is_open = self.is_open, self.is_open or self._is_too_much(now_s)
        return self.is_open and not was_open

    def _is_too_much(self, now_s: float) -> bool:
        since_s = now_s - self._rules.window_s
        failed = [r.run_id for r in self._recent if r.failed and r.at_s >= since_s]
        return len(failed) >= self._rules.requests and len(set(failed)) >= self._rules.runs


def is_failure(status: int | None) -> bool:
    """Tell whether a request that came to this speaks against its host."""
    return status is None or status >= 500 or status == _TOO_MANY_REQUESTS


def host_of(url: str) -> str:
    """Return scheme, host and port, by which breakers are told apart; empty if there is none.

    Nothing else of the address is in it, least of all credentials.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return ""
    if not parts.hostname or port is None:
        return ""
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    host = f"{parts.scheme}://{name}:{port}"
    return host if len(host) <= HOST_CHARS_MAX else ""
