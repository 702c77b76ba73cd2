"""The node's circuit breakers: each run passes its host's before every request it sends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bpa.connectors.breaker import STILL_IN_FLIGHT, Breaker, host_of, is_failure
from bpa.connectors.sdk import OutboundTry
from bpa.domain.executions import Admission, RunSpec, TargetSeen
from bpa.errors import BpaError, Reason, RunEnded

_NO_HOST = "an address without a host"
_GIVEN_UP = frozenset({Reason.RETRIES_EXHAUSTED, Reason.DEADLINE_EXCEEDED})


class Parked(BpaError):
    """The execution ends here, and its run waits until the target answers again."""

    code = "parked"

    def __init__(self, seen: TargetSeen) -> None:
        super().__init__(f"the target {seen.host} fails ({seen.error}); the run is parked")
        self.seen = seen


class EndedAtTarget(RunEnded):
    """The run ends here by what its target came to, of which control wants to hear more."""

    def __init__(self, ended: RunEnded, seen: TargetSeen) -> None:
        super().__init__(ended.reason, ended.detail)
        self.seen = seen


@dataclass(slots=True)
class _Host:
    name: str
    breaker: Breaker = field(default_factory=Breaker)
    opened: asyncio.Event = field(default_factory=asyncio.Event)


class Breakers:
    """One breaker for each host that the node's runs post to.

    Args:
        clock: Monotonic seconds.
        on_try: Hears of every request, with the host's name.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        on_try: Callable[[str, OutboundTry], None] = lambda _host, _tried: None,
    ) -> None:
        self._clock = clock
        self._on_try = on_try
        self._hosts: dict[str, _Host] = {}

    def gate(self, run: RunSpec, url: str) -> Gate:
        """Return a run's way through the breaker of its target."""
        name = host_of(url) or _NO_HOST
        host = self._hosts.setdefault(name, _Host(name))
        return Gate(host, run.run_id, run.admission, self._clock, self._on_try)


class Gate:
    """One execution's way through its host's breaker; see `Breakers.gate`."""

    def __init__(
        self,
        host: _Host,
        run_id: str,
        admission: Admission,
        clock: Callable[[], float],
        on_try: Callable[[str, OutboundTry], None],
    ) -> None:
        self._host = host
        self._run_id = run_id
        self._admission = admission
        self._clock = clock
        self._on_try = on_try
        self._sent_under = 0
        self._failures = 0
        self._was_answered = False

    def pass_through(self) -> None:
        """Check that a request may be sent, right now.

        Raises:
            Parked: The breaker is open.
        """
        breaker = self._host.breaker
        if not breaker.admits(self._admission, failures=self._failures):
            raise Parked(self._seen(breaker.last_error, breaker.closings))
        if not breaker.is_open:
            self._host.opened.clear()
        self._sent_under = breaker.closings

    def note(self, tried: OutboundTry) -> None:
        """Feed the breaker with what a request came to."""
        self._on_try(self._host.name, tried)
        if tried.cut_short:
            return  # by the run's own deadline: that says nothing of the host
        breaker = self._host.breaker
        if breaker.note(self._clock(), self._run_id, tried.status, sent_under=self._sent_under):
            self._host.opened.set()
        if is_failure(tried.status):
            self._failures += 1
        elif tried.status != STILL_IN_FLIGHT:
            self._was_answered = True

    async def pause(self, seconds: float) -> None:
        """Wait between two requests, no longer than until it is clear that there is no second."""
        if self._admission.probe:
            if not self._failures:  # the target is there, and still works on an earlier request
                await asyncio.sleep(seconds)
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._host.opened.wait()

    def judged(self, ended: RunEnded) -> RunEnded | Parked:
        """Return how an execution that was given up really ends: parked, if the breaker is open."""
        breaker, admission = self._host.breaker, self._admission
        if ended.reason is Reason.NON_RETRYABLE_HTTP_STATUS and admission.watched:
            return EndedAtTarget(ended, self._seen("", admission.closings))
        seen = self._seen(breaker.last_error, breaker.closings)
        if self._failures and ended.reason is Reason.OUTCOME_UNKNOWN:
            return EndedAtTarget(ended, seen)  # never parked: it must not be sent again
        if self._failures == 0 or ended.reason not in _GIVEN_UP:
            return ended
        return Parked(seen) if admission.probe or breaker.is_open else EndedAtTarget(ended, seen)

    def answered(self) -> TargetSeen | None:
        """Return what control wants to hear of a target that answered, if anything."""
        tells = self._was_answered and self._admission.watched
        return self._seen("", self._admission.closings) if tells else None

    def _seen(self, error: str, closings: int) -> TargetSeen:
        return TargetSeen(
            host=self._host.name, closings=closings, tries=self._failures, error=error
        )
