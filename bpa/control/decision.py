"""What follows from the end of an execution: complete, try again, or dead-letter. Pure.

The limits are those of the invariant I10: what went wrong is counted by its kind, and broker
deliveries count as none of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bpa.domain.executions import Outcome, OutcomeKind
from bpa.domain.runs import RunStatus
from bpa.errors import Reason
from bpa.scheduler.breakers import Parking

AGENT_FAILURES_MAX = 3
CRASHES_MAX = 5
INFRA_FAILURES_MAX = 20
_BACKOFF_FIRST_S = 0.5
_BACKOFF_MOST_S = 60.0


@dataclass(frozen=True, slots=True)
class Counters:
    """What has gone wrong with a run before, by kind."""

    agent_failures: int = 0
    crashes: int = 0
    infra_failures: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """How a run goes on; counters are increments, ``delay_s`` is the time until the next try."""

    status: RunStatus
    reason: Reason | None = None
    detail: str | None = None
    waiting_reason: str | None = None
    agent_failures: int = 0
    crashes: int = 0
    infra_failures: int = 0
    delay_s: float = 0.0
    parked: Parking | None = None


def decide(
    outcome: Outcome, before: Counters, jitter: float, parking: Parking | None = None
) -> Decision:
    """Return what follows from ``outcome``.

    Args:
        outcome: How the execution ended.
        before: What had gone wrong earlier, this outcome not counted.
        jitter: From 0 to 1; spreads the backoff over its upper half.
        parking: How the run waits for its target; whatever its outcome says, nothing is counted.
    """
    if parking is not None:
        reason, delay_s = parking.waiting_reason, parking.delay_s
        return Decision(RunStatus.QUEUED, waiting_reason=reason, delay_s=delay_s, parked=parking)
    if outcome.kind is OutcomeKind.PARKED:
        return Decision(RunStatus.QUEUED, waiting_reason=outcome.detail)
    if outcome.kind is OutcomeKind.COMPLETED:
        return Decision(RunStatus.COMPLETED)
    if outcome.kind is OutcomeKind.REJECTED:
        return _dead_letter(Reason(outcome.reason), outcome.detail)
    if outcome.kind is OutcomeKind.HANDED_BACK:
        return Decision(RunStatus.QUEUED, waiting_reason="handed back by its node")
    if outcome.kind is OutcomeKind.NODE_FAILED:
        return lapse(outcome.detail, before, jitter)
    if outcome.kind is OutcomeKind.AGENT_FAILED:
        failures = before.agent_failures + 1
        if failures >= AGENT_FAILURES_MAX:
            detail = f"the agent failed {failures} times, last: {outcome.detail}"
            return replace(_dead_letter(Reason.ATTEMPTS_EXHAUSTED, detail), agent_failures=1)
        return Decision(
            RunStatus.QUEUED,
            waiting_reason=f"the agent failed ({outcome.detail}); backing off",
            agent_failures=1,
            delay_s=backoff_s(failures, jitter),
        )
    crashes = before.crashes + 1
    if crashes >= CRASHES_MAX:
        detail = f"the sandbox died {crashes} times, last: {outcome.detail}"
        return replace(_dead_letter(Reason.CRASH_LOOP, detail), crashes=1)
    return Decision(
        RunStatus.QUEUED,
        waiting_reason=f"the sandbox died ({outcome.detail}); backing off",
        crashes=1,
        delay_s=backoff_s(crashes, jitter),
    )


def lapse(why: str, before: Counters, jitter: float) -> Decision:
    """Return what follows when a lease was lost through no fault of the run."""
    failures = before.infra_failures + 1
    if failures >= INFRA_FAILURES_MAX:
        detail = f"its lease was lost {failures} times, last: {why}"
        return replace(_dead_letter(Reason.CRASH_LOOP, detail), infra_failures=1)
    delay_s = backoff_s(failures, jitter) if failures > 1 else 0.0
    return Decision(
        RunStatus.QUEUED,
        waiting_reason=f"{why}; {'backing off' if delay_s else 'to be placed again'}",
        infra_failures=1,
        delay_s=delay_s,
    )


def backoff_s(failures: int, jitter: float) -> float:
    """Return seconds to wait after the n-th failure: doubling, capped, upper half jittered."""
    full = min(_BACKOFF_MOST_S, _BACKOFF_FIRST_S * 2.0 ** (failures - 1))
    return float(full * (0.5 + jitter / 2))


def _dead_letter(reason: Reason, detail: str) -> Decision:
    return Decision(RunStatus.DEAD_LETTERED, reason=reason, detail=detail)
