"""The fleet's circuit breaker of one target host: when it opens, probes, closes. Pure.

::

    closed --(a node's breaker opened; or three runs ran out of tries, none completed)--> open
    open --(probe_at: one run is granted as the probe)--> open --(it failed)--> open, later probe_at
    open --(the probe was answered)--> closing, two runs at once
    closing --(as many were answered)--> closing, twice as many at once
    closing --(that is what the deployments may run at most)--> closed
    closing --(as from closed)--> open

Nodes report what they saw with the end of an execution; what they report under an earlier count of
closings is old news. Postgres keeps the row and its grant statement enforces ``room``; here is what
follows from a report, as a value from a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from bpa.connectors.breaker import RULES

PROBE_FIRST_S = 1.0
PROBE_MOST_S = 60.0
_NEXT_CANDIDATE_S = 2.0
"""How much later than others a failed probe's run may be the next: more than a scheduler's pass."""
_WINDOW = timedelta(seconds=RULES.window_s)
_SPARED_MOST = 1
"""How often a run may run out of tries while the breaker closes, before it ends so."""


class BreakerState(StrEnum):
    """Whether runs go to a host."""

    OPEN = "open"
    """None but a probe."""
    CLOSING = "closing"
    """A few at once, then twice as many."""
    CLOSED = "closed"
    """All."""


@dataclass(frozen=True, slots=True)
class Gate:
    """What the breaker of a deployment's target, if it is not closed, leaves to the planner."""

    host: str
    state: BreakerState
    room: int
    """Further runs that may be granted now."""
    untried: bool = True
    """Whether a run waits that has not failed as a probe: else a message more is received to probe
    with, as it may be the runs and not the target."""
    last_error: str = ""
    probe_at: datetime | None = None
    ramp: int = 0

    @property
    def why(self) -> str:
        """Return why a run is held back; steady while nothing happens (see ``constraints``)."""
        if self.state is BreakerState.OPEN and self.probe_at is not None:
            at = f"{self.probe_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
            return f"parked: target {self.host} fails ({self.last_error}); probed next at {at}"
        return f"target {self.host} answers again: up to {self.ramp} runs at once for now"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostBreaker:
    """The row of one host."""

    host: str
    state: BreakerState = BreakerState.CLOSED
    closings: int = 0
    deployments: Mapping[str, int] = field(default_factory=dict)
    """Deployments seen at the host, with the revision: a changed one may go elsewhere."""
    opened_at: datetime | None = None
    probe_at: datetime | None = None
    """When the next probe may go; none goes while another is under way."""
    failed_probes: int = 0
    probe_run: str | None = None
    probe_epoch: int | None = None
    ramp: int = 0
    """Runs at once while it closes."""
    passed: int = 0
    """Runs answered at this ``ramp``."""
    passed_at: datetime | None = None
    exhausted: Mapping[str, int] = field(default_factory=dict)
    """Runs that ran out of tries in a row while it was closed, with how many those were."""
    last_error: str = ""
    failed_at: datetime | None = None

    @property
    def gate(self) -> Gate:
        """Return the reason that it gives."""
        return Gate(
            self.host,
            self.state,
            room=0,
            last_error=self.last_error,
            probe_at=self.probe_at,
            ramp=self.ramp,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An execution that its target ended, and what is known beside it."""

    run_id: str
    dep_id: str
    revision: int
    exhausted: bool
    """The run is out of tries; else its node did not let it through."""
    closings: int
    tries: int
    error: str
    is_probe: bool = False
    answered_since: bool = False
    """Another run was answered after this one was granted (closing), or completed after the last
    one that ran out of tries (closed)."""
    spared: int = 0
    """How often this run was let wait although it was out of tries."""


@dataclass(frozen=True, slots=True)
class Parking:
    """How a run waits that its execution's end does not end."""

    host: str
    error: str
    waiting_reason: str
    delay_s: float = 0.0
    spared: int = 0
    """1 if it was out of tries."""
    probed: bool = False
    """Whether it was the probe."""


def failed(
    breaker: HostBreaker, failure: Failure, now: datetime, jitter: float
) -> tuple[HostBreaker, Parking | None]:
    """Return the breaker after a failure, and how the run waits; None if it ends as reported.

    Args:
        breaker: As it is.
        failure: What a node reported.
        now: Postgres's clock.
        jitter: From 0 to 1.
    """
    recent = breaker.failed_at is not None and now - breaker.failed_at <= _WINDOW
    breaker = replace(
        breaker,
        deployments={**breaker.deployments, failure.dep_id: failure.revision},
        exhausted=breaker.exhausted if recent else {},
        last_error=failure.error or breaker.last_error,
        failed_at=now,
    )
    if failure.is_probe:
        return _probe_failed(breaker, now, jitter)
    if not failure.exhausted and failure.closings < breaker.closings:
        return breaker, _parking(breaker)
    if breaker.state is BreakerState.OPEN:
        return breaker, _parking(breaker)
    if not failure.exhausted:
        return _opened(breaker, now, jitter)
    return _ran_out(breaker, failure, now, jitter)


def passed(
    breaker: HostBreaker,
    answered: Sequence[tuple[str, int, int]],
    run_limit: int,
    now: datetime,
) -> HostBreaker:
    """Return the breaker after requests that the target answered.

    Args:
        breaker: As it is.
        answered: Run, epoch and count of closings of each.
        run_limit: Runs that all deployments at the host may have at work at once.
        now: Postgres's clock.
    """
    current = [one for one in answered if one[2] == breaker.closings]
    if breaker.state is BreakerState.OPEN:
        probe = (breaker.probe_run, breaker.probe_epoch)
        if not any((run_id, epoch) == probe for run_id, epoch, _ in current):
            return breaker
        breaker = replace(
            breaker, state=BreakerState.CLOSING, closings=breaker.closings + 1, ramp=1,
            passed=0, failed_probes=0, probe_run=None, probe_epoch=None,
        )  # fmt: skip
        return _ramped(breaker, 1, run_limit, now)
    if breaker.state is BreakerState.CLOSING and current:
        return _ramped(breaker, len(current), run_limit, now)
    return breaker


def probe_pause_s(failed_probes: int, jitter: float) -> float:
    """Return seconds until the next probe: doubling, capped, upper half jittered."""
    full = min(PROBE_MOST_S, PROBE_FIRST_S * 2.0 ** min(failed_probes, 30))
    return float(full * (0.5 + jitter / 2))


def _ramped(breaker: HostBreaker, count: int, run_limit: int, now: datetime) -> HostBreaker:
    count += breaker.passed
    ramp = breaker.ramp
    while count >= ramp:
        count -= ramp
        ramp *= 2
    state = BreakerState.CLOSED if ramp >= run_limit else BreakerState.CLOSING
    return replace(breaker, state=state, ramp=ramp, passed=count, passed_at=now, exhausted={})


def _opened(breaker: HostBreaker, now: datetime, jitter: float) -> tuple[HostBreaker, Parking]:
    opened = replace(
        breaker, state=BreakerState.OPEN, opened_at=now, failed_probes=0, probe_run=None,
        probe_epoch=None, ramp=0, passed=0, exhausted={},
        probe_at=now + timedelta(seconds=probe_pause_s(0, jitter)),
    )  # fmt: skip
    return opened, _parking(opened)


def _probe_failed(
    breaker: HostBreaker, now: datetime, jitter: float
) -> tuple[HostBreaker, Parking]:
    pause_s = probe_pause_s(breaker.failed_probes + 1, jitter)
    later = replace(
        breaker, failed_probes=breaker.failed_probes + 1, probe_run=None, probe_epoch=None,
        probe_at=now + timedelta(seconds=pause_s),
    )  # fmt: skip
    parking = _parking(later)
    return later, replace(parking, delay_s=pause_s + _NEXT_CANDIDATE_S, probed=True)


def _ran_out(
    breaker: HostBreaker, failure: Failure, now: datetime, jitter: float
) -> tuple[HostBreaker, Parking | None]:
    """Count a run that its node's breaker, which sees only its own few runs, let end.

    One that has just been let go to a target that answers again is given another chance, unless
    others were answered meanwhile: a target that comes back often goes once more.
    """
    before = {} if failure.answered_since else breaker.exhausted
    exhausted = {**before, failure.run_id: failure.tries}
    if len(exhausted) >= RULES.runs and sum(exhausted.values()) >= RULES.requests:
        return _opened(breaker, now, jitter)
    breaker = replace(breaker, exhausted=exhausted)
    has_chance = breaker.state is BreakerState.CLOSING and failure.spared < _SPARED_MOST
    if failure.answered_since or not has_chance:
        return breaker, None
    pause_s = probe_pause_s(failure.spared + 1, jitter)
    return breaker, replace(_parking(breaker), delay_s=pause_s, spared=1)


def _parking(breaker: HostBreaker) -> Parking:
    return Parking(breaker.host, breaker.last_error, breaker.gate.why)
