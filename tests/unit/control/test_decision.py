"""What went wrong is counted by its kind, each with its own limit."""

import pytest

from bpa.control.decision import Counters, decide, lapse
from bpa.domain.executions import Outcome, OutcomeKind
from bpa.domain.runs import RunStatus
from bpa.errors import Reason
from bpa.scheduler.breakers import Parking

LIMITS = {
    OutcomeKind.AGENT_FAILED: ("agent_failures", 3, Reason.ATTEMPTS_EXHAUSTED),
    OutcomeKind.CRASHED: ("crashes", 5, Reason.CRASH_LOOP),
    OutcomeKind.NODE_FAILED: ("infra_failures", 20, Reason.CRASH_LOOP),
}


@pytest.mark.parametrize("kind", LIMITS)
def test_each_kind_of_failure_ends_a_run_at_its_own_limit(kind):
    counter, limit, reason = LIMITS[kind]
    others = {name: limit - 1 for name, limit, _ in LIMITS.values() if name != counter}
    for before in range(limit):
        decision = decide(Outcome(kind=kind), Counters(**{counter: before}, **others), 0.0)
        assert getattr(decision, counter) == 1
        assert sum(getattr(decision, name) for name in others) == 0
        is_last = before == limit - 1
        assert decision.status is (RunStatus.DEAD_LETTERED if is_last else RunStatus.QUEUED)
        assert decision.reason == (reason if is_last else None)


def test_a_run_that_finds_no_sandbox_backs_off_as_after_a_lapsed_lease():
    outcome = Outcome(kind=OutcomeKind.NODE_FAILED, detail="no sandbox")
    for failures in range(20):
        before = Counters(infra_failures=failures)
        assert decide(outcome, before, 0.5) == lapse("no sandbox", before, 0.5)
    assert decide(outcome, Counters(infra_failures=3), 0.0).delay_s > 0


def test_a_run_handed_back_costs_nothing():
    before = Counters(agent_failures=2, crashes=4, infra_failures=19)
    decision = decide(Outcome(kind=OutcomeKind.HANDED_BACK), before, 0.5)
    assert (decision.status, decision.delay_s) == (RunStatus.QUEUED, 0.0)
    assert (decision.agent_failures, decision.crashes, decision.infra_failures) == (0, 0, 0)


@pytest.mark.parametrize("kind", [OutcomeKind.PARKED, OutcomeKind.REJECTED])
def test_a_parked_run_waits_and_nothing_is_counted(kind):
    parking = Parking("http://target:80", "HTTP 503", "parked: it fails", delay_s=3.0)
    decision = decide(
        Outcome(kind=kind, reason="RetriesExhausted"), Counters(2, 4, 19), 0.5, parking
    )
    assert (decision.status, decision.parked, decision.reason) == (RunStatus.QUEUED, parking, None)
    assert (decision.waiting_reason, decision.delay_s) == ("parked: it fails", 3.0)
    assert (decision.agent_failures, decision.crashes, decision.infra_failures) == (0, 0, 0)
