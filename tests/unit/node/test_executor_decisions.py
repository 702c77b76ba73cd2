import pytest
from msgspec.structs import replace

from bpa.domain.executions import Admission, LeaseOffer, Outcome, OutcomeKind, RunSpec, TargetSeen
from bpa.domain.specs import AgentSpec, Budgets, HttpOutSpec
from bpa.errors import InvalidRequest, Reason, RunEnded, StaleLease, Unavailable
from bpa.node import executor
from bpa.node.breakers import EndedAtTarget, Parked
from bpa.node.frames import SandboxProtocolError
from bpa.node.lease import HeldLease, Stop
from bpa.node.sandbox import ExitStatus


class Log:
    """Keeps what was logged with a traceback."""

    def __init__(self):
        self.events = []

    def exception(self, event):
        self.events.append(event)


@pytest.mark.parametrize(
    ("raised", "kind", "reason"),
    [
        (RunEnded(Reason.POLICY_DENIED, "no"), OutcomeKind.REJECTED, "PolicyDenied"),
        (SandboxProtocolError("flood"), OutcomeKind.REJECTED, "SandboxProtocol"),
        (InvalidRequest("what"), OutcomeKind.REJECTED, "DeserializationError"),
        (Unavailable("no zygote"), OutcomeKind.NODE_FAILED, ""),
        (ZeroDivisionError("secret"), OutcomeKind.CRASHED, ""),
    ],
)
async def test_whatever_is_raised_becomes_one_outcome(raised, kind, reason):
    async def work():
        raise raised

    outcome = await executor._ended(work(), Log())
    assert (outcome.kind, outcome.reason) == (kind, reason)
    assert "secret" not in outcome.detail


async def test_only_a_mistake_of_ours_is_logged_with_its_traceback():
    async def work(error):
        raise error

    log = Log()
    assert await executor._ended(work(StaleLease("gone")), log) is None
    assert log.events == []
    await executor._ended(work(KeyError("x")), log)
    assert log.events == ["execution_failed_in_node"]


def test_the_end_of_a_child_says_how_and_with_what():
    outcome = executor._crashed(ExitStatus(None, 9, cpu_s=1.26, rss_bytes_max=64 << 20))
    assert outcome.kind is OutcomeKind.CRASHED
    assert outcome.detail == (
        "the sandbox ended without an answer: killed by SIGKILL, after 1.3 s of processor time, "
        "with 64 MiB at most"
    )


async def test_what_control_wants_to_hear_of_a_target_goes_with_the_outcome():
    seen = TargetSeen(host="http://target:80", tries=4, error="HTTP 503")

    async def work(error):
        raise error

    parked = await executor._ended(work(Parked(seen)), Log())
    assert (parked.kind, parked.target) == (OutcomeKind.PARKED, seen)
    ended = EndedAtTarget(RunEnded(Reason.RETRIES_EXHAUSTED, "HTTP 503 on the last of 4"), seen)
    rejected = await executor._ended(work(ended), Log())
    assert (rejected.kind, rejected.reason) == (OutcomeKind.REJECTED, "RetriesExhausted")
    assert (rejected.target, rejected.detail) == (seen, "HTTP 503 on the last of 4")


@pytest.mark.parametrize(
    ("kind", "stands"),
    [
        (OutcomeKind.COMPLETED, True),
        (OutcomeKind.REJECTED, True),
        (OutcomeKind.AGENT_FAILED, False),
        (OutcomeKind.CRASHED, False),
        (OutcomeKind.NODE_FAILED, False),
        (OutcomeKind.HANDED_BACK, False),
        (OutcomeKind.PARKED, False),
    ],
)
def test_a_stopped_child_that_fails_fails_because_it_was_stopped(kind, stands):
    assert executor._is_final(Outcome(kind=kind)) is stands


def test_what_an_agent_says_of_its_failure_is_one_bounded_line():
    assert executor._agent_failed("a\nb\x1b[0m").detail == "a b [0m"
    assert len(executor._agent_failed("x" * 10_000).detail) == 2_000


@pytest.mark.parametrize(
    ("kind", "is_probe", "counts_s"),
    [
        (OutcomeKind.COMPLETED, False, 5.0),
        (OutcomeKind.REJECTED, True, 5.0),
        (OutcomeKind.PARKED, False, 1.0),
        (OutcomeKind.PARKED, True, 0.0),
    ],
)
async def test_the_time_that_a_failing_target_takes_is_not_the_run_s(kind, is_probe, counts_s):
    run = replace(a_lease([0.0]).offer.run, admission=Admission(probe=is_probe))
    timings = {"model": 900.0, "http_out": 4_000.0, "total": 5_000.0}
    assert executor._worked_s(Outcome(kind=kind), run, timings) == counts_s


# -- leases ----------------------------------------------------------------------------------------


def a_lease(now, *, ttl_s=16.0):
    run = RunSpec(
        run_id="r",
        agent=AgentSpec("a", "1", "a", "i"),
        deployment_id="d",
        environment="dev",
        routes=["x"],
        budgets=Budgets(),
        http_out=HttpOutSpec(),
        effect_key="k",
        document=b"",
    )
    offer = LeaseOffer(run=run, epoch=1, ttl_s=ttl_s, deadline_s=9, traceparent="")
    return HeldLease(offer, reports=None, clock=lambda: now[0], draw=lambda: 0.5)


async def test_a_lease_counts_from_the_sending_and_ends_before_its_ttl():
    now = [100.0]
    lease = a_lease(now)
    assert not lease.is_good
    now[0] = 103.0  # the answer took three seconds
    lease.confirm(100.0)
    now[0] = 113.9
    assert lease.is_good
    now[0] = 114.0
    assert not lease.is_good
    lease.check()
    assert lease.stopped.result() is Stop.EXPIRED


async def test_an_older_confirmation_does_not_shorten_a_lease():
    now = [100.0]
    lease = a_lease(now)
    lease.confirm(105.0)
    lease.confirm(101.0)
    now[0] = 118.9
    assert lease.is_good


async def test_an_offer_that_nobody_confirms_is_given_up_after_its_ttl():
    now = [100.0]
    lease = a_lease(now)
    now[0] = 115.9
    lease.check()
    assert not lease.stopped.done()
    now[0] = 116.0
    lease.check()
    assert lease.stopped.done()


async def test_a_lease_that_is_stopped_starts_nothing_more():
    lease = a_lease([100.0])
    lease.confirm(100.0)
    lease.stop(Stop.CANCELLED)
    assert not lease.is_good
    assert not lease._gone.done()
    lease.stop(Stop.LOST)
    assert lease._gone.done()
    assert lease.stopped.result() is Stop.CANCELLED
