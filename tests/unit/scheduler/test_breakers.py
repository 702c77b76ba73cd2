"""The fleet's breaker of a host: what opens it, who probes, how it closes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bpa.scheduler.breakers import (
    PROBE_MOST_S,
    BreakerState,
    Failure,
    Gate,
    HostBreaker,
    failed,
    passed,
    probe_pause_s,
)

HOST = "http://target:80"
NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
OPEN, CLOSING, CLOSED = BreakerState.OPEN, BreakerState.CLOSING, BreakerState.CLOSED


def failure(run="r1", **changes):
    values = {
        "run_id": run, "dep_id": "dep-1", "revision": 7, "exhausted": False, "closings": 0,
        "tries": 4, "error": "HTTP 503",
    }  # fmt: skip
    return Failure(**{**values, **changes})


def out_of_tries(run, **changes):
    return failure(run, exhausted=True, **changes)


def after(breaker, *failures, jitter=1.0):
    """Return the breaker after these failures, and what became of the last one's run."""
    parking = None
    for one in failures:
        breaker, parking = failed(breaker, one, NOW, jitter)
    return breaker, parking


def opened(**changes):
    return replace(after(HostBreaker(host=HOST), failure())[0], **changes)


def closing(ramp=2, **changes):
    return replace(opened(), state=CLOSING, closings=1, ramp=ramp, passed_at=NOW, **changes)


# -- opening ---------------------------------------------------------------------------------------


def test_a_node_whose_breaker_opened_opens_that_of_the_fleet():
    breaker, parking = after(HostBreaker(host=HOST), failure())
    assert (breaker.state, breaker.deployments, breaker.opened_at) == (OPEN, {"dep-1": 7}, NOW)
    assert breaker.probe_at == NOW + timedelta(seconds=1)
    assert (parking.host, parking.error, parking.delay_s, parking.spared) == (
        HOST, "HTTP 503", 0.0, 0
    )  # fmt: skip
    assert parking.waiting_reason == (
        "parked: target http://target:80 fails (HTTP 503); probed next at 2026-03-01T12:00:01Z"
    )


def test_two_runs_out_of_tries_end_so_and_the_third_in_a_row_opens():
    breaker = HostBreaker(host=HOST)
    for run in ("r1", "r2"):
        breaker, parking = after(breaker, out_of_tries(run))
        assert (breaker.state, parking) == (CLOSED, None)
    breaker, parking = after(breaker, out_of_tries("r3"))
    assert breaker.state is OPEN
    assert parking.error == "HTTP 503"
    assert breaker.exhausted == {}


def test_one_run_reported_again_and_again_opens_nothing():
    breaker, parking = after(HostBreaker(host=HOST), *[out_of_tries("r1")] * 10)
    assert (breaker.state, parking) == (CLOSED, None)


def test_ten_requests_are_needed_as_well():
    few = [out_of_tries(f"r{n}", tries=1) for n in range(9)]
    breaker, _ = after(HostBreaker(host=HOST), *few)
    assert breaker.state is CLOSED
    assert after(breaker, out_of_tries("r9", tries=1))[0].state is OPEN


def test_runs_that_complete_between_keep_it_closed():
    rows = [out_of_tries(f"r{n}", answered_since=n % 2 == 0) for n in range(50)]
    assert after(HostBreaker(host=HOST), *rows)[0].state is CLOSED


def test_runs_that_ran_out_of_tries_long_ago_do_not_count():
    breaker, _ = after(HostBreaker(host=HOST), out_of_tries("r1"), out_of_tries("r2"))
    later, parking = failed(breaker, out_of_tries("r3"), NOW + timedelta(minutes=6), 1.0)
    assert (later.state, parking, dict(later.exhausted)) == (CLOSED, None, {"r3": 4})


# -- while it is open ------------------------------------------------------------------------------


@pytest.mark.parametrize("report", [failure("r2"), out_of_tries("r2")])
def test_whoever_fails_while_it_is_open_is_parked(report):
    before = opened()
    breaker, parking = after(before, replace(report, dep_id="dep-2"))
    assert replace(breaker, deployments=before.deployments) == before
    assert breaker.deployments == {"dep-1": 7, "dep-2": 7}
    assert parking is not None


def test_a_failed_probe_is_parked_and_the_next_one_is_another_run_and_later():
    breaker, parking = opened(probe_run="r1", probe_epoch=3), None
    pauses = []
    for _ in range(10):
        breaker, parking = after(breaker, failure(is_probe=True))
        assert (breaker.state, breaker.probe_run, breaker.probe_epoch) == (OPEN, None, None)
        pauses.append((breaker.probe_at - NOW).total_seconds())
        assert parking.delay_s > pauses[-1] + 1  # another one's turn comes first
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60, 60, 60]


def test_pauses_between_probes_are_jittered_and_capped():
    assert probe_pause_s(0, 0.0) == 0.5
    assert probe_pause_s(10_000, 0.0) == PROBE_MOST_S / 2
    assert probe_pause_s(10_000, 1.0) == PROBE_MOST_S


def test_an_answer_to_anybody_but_the_probe_closes_nothing():
    breaker = opened(probe_run="r1", probe_epoch=3)
    for answered in (("r2", 3, 0), ("r1", 2, 0), ("r1", 3, 5)):
        assert passed(breaker, [answered], 100, NOW) is breaker


# -- closing ---------------------------------------------------------------------------------------


def test_an_answered_probe_lets_two_runs_go_then_four_then_eight_then_all():
    breaker = passed(opened(probe_run="r1", probe_epoch=3), [("r1", 3, 0)], 16, NOW)
    assert (breaker.state, breaker.closings, breaker.probe_run) == (CLOSING, 1, None)
    ramps = []
    for n in range(2 + 4 + 8):
        ramps.append(breaker.ramp)
        assert breaker.state is CLOSING
        breaker = passed(breaker, [(f"r{n}", 1, 1)], 16, NOW)
    assert ramps == [2] * 2 + [4] * 4 + [8] * 8
    assert breaker.state is CLOSED


def test_answers_that_come_together_count_each():
    breaker = passed(closing(), [(f"r{n}", 1, 1) for n in range(7)], 64, NOW)
    assert (breaker.ramp, breaker.passed) == (8, 1)


def test_a_deployment_of_one_run_at_a_time_is_free_once_the_probe_is_answered():
    breaker = passed(opened(probe_run="r1", probe_epoch=3), [("r1", 3, 0)], 1, NOW)
    assert breaker.state is CLOSED


@pytest.mark.parametrize("state", [CLOSING, CLOSED])
def test_what_was_reported_before_it_closed_does_not_open_it_again(state):
    again, parking = after(replace(closing(), state=state), failure(closings=0))
    assert (again.state, parking.delay_s) == (state, 0.0)


def test_a_node_whose_breaker_opens_while_it_closes_opens_it_again():
    breaker, parking = after(closing(), failure(closings=1))
    assert (breaker.state, breaker.closings, breaker.failed_probes) == (OPEN, 1, 0)
    assert parking.spared == 0


def test_a_run_out_of_tries_while_it_closes_has_one_more_chance_unless_others_are_answered():
    breaker, parking = after(closing(), out_of_tries("r1", closings=1))
    assert (breaker.state, parking.spared) == (CLOSING, 1)
    assert parking.delay_s == 2.0
    assert after(closing(), out_of_tries("r1", closings=1, spared=1))[1] is None
    assert after(closing(), out_of_tries("r1", closings=1, answered_since=True))[1] is None


def test_three_runs_in_a_row_out_of_tries_while_it_closes_open_it_again():
    breaker, parking = after(closing(), *[out_of_tries(f"r{n}", closings=1) for n in range(3)])
    assert (breaker.state, parking.spared) == (OPEN, 0)
    two = [out_of_tries(f"r{n}", closings=1) for n in range(2)]
    between = passed(after(closing(), *two)[0], [("r8", 1, 1)], 16, NOW)
    assert after(between, out_of_tries("r9", closings=1))[0].state is CLOSING


def test_what_it_says_to_waiting_runs_is_steady():
    gate = Gate(HOST, CLOSING, room=1, ramp=4)
    assert gate.why == "target http://target:80 answers again: up to 4 runs at once for now"
    assert replace(gate, room=0).why == gate.why


# -- a fleet ---------------------------------------------------------------------------------------

RUNS = [f"r{n}" for n in range(8)]
RUN_LIMIT = 6


class Outage(RuleBasedStateMachine):
    """Runs that go where ``room`` lets them, as the grant statement does; a target that comes and
    goes; reports that come late. ``poison`` is answered to by nobody, ever."""

    def __init__(self):
        super().__init__()
        self.breaker = HostBreaker(host=HOST)
        self.now = NOW
        self.target_answers = True
        self.waiting = dict.fromkeys([*RUNS, "poison"], NOW)  # run -> not before
        self.out = {}  # run -> (epoch, offered under, is probe, granted at)
        self.ended = {}
        self.spared = dict.fromkeys(self.waiting, 0)
        self.epoch = 0
        self.last_pass = None

    @property
    def room(self):
        breaker = self.breaker
        if breaker.state is CLOSED:
            return 99
        if breaker.state is CLOSING:
            return max(0, breaker.ramp - len(self.out))
        probing = any((r, o[0]) == (breaker.probe_run, breaker.probe_epoch)
                      for r, o in self.out.items())  # fmt: skip
        return int(breaker.probe_at <= self.now and not probing)

    @rule(run=st.sampled_from([*RUNS, "poison"]))
    def grant(self, run):
        due = self.waiting.get(run)
        if due is None or due > self.now or self.room < 1:
            return
        del self.waiting[run]
        self.epoch += 1
        is_probe = self.breaker.state is OPEN
        self.out[run] = (self.epoch, self.breaker.closings, is_probe, self.now)
        if is_probe:
            self.breaker = replace(self.breaker, probe_run=run, probe_epoch=self.epoch)

    @rule(seconds=st.sampled_from([0.5, 5.0, 70.0]))
    def wait(self, seconds):
        self.now += timedelta(seconds=seconds)

    @rule()
    def target_changes(self):
        self.target_answers = not self.target_answers

    @precondition(lambda self: self.out)
    @rule(data=st.data(), node_opened=st.booleans(), dies=st.sampled_from([False] * 5 + [True]))
    def end(self, data, node_opened, dies):
        run = data.draw(st.sampled_from(sorted(self.out)))
        if dies:
            del self.out[run]
            self.waiting[run] = self.now
        else:
            self.report(run, node_opened=node_opened)

    def report(self, run, *, node_opened=False):
        epoch, closings, is_probe, granted_at = self.out.pop(run)
        if self.target_answers and run != "poison":
            self.ended[run] = "completed"
            self.last_pass = self.now
            self.breaker = passed(self.breaker, [(run, epoch, closings)], RUN_LIMIT, self.now)
            return
        reported = failure(
            run,
            exhausted=not is_probe and not node_opened,
            closings=closings,
            is_probe=(run, epoch) == (self.breaker.probe_run, self.breaker.probe_epoch),
            answered_since=self.last_pass is not None and self.last_pass > granted_at,
            spared=self.spared[run],
        )
        before = self.breaker
        self.breaker, parking = failed(before, reported, self.now, 0.5)
        if parking is None:
            assert reported.exhausted
            assert before.state is not OPEN
            assert before.state is CLOSED or reported.answered_since or reported.spared == 1
            self.ended[run] = "RetriesExhausted"
            return
        self.spared[run] += parking.spared
        self.waiting[run] = self.now + timedelta(seconds=parking.delay_s)

    @invariant()
    def no_run_is_lost(self):
        everything = {*self.waiting, *self.out, *self.ended}
        assert everything == {*RUNS, "poison"}

    @invariant()
    def there_is_one_probe_at_most(self):
        known = (self.breaker.probe_run, self.breaker.probe_epoch)
        probes = [run for run, out in self.out.items() if out[2] and (run, out[0]) == known]
        assert len(probes) <= (self.breaker.state is OPEN)

    @invariant()
    def a_breaker_that_is_not_closed_can_go_on(self):
        if self.breaker.state is OPEN:
            assert self.breaker.probe_at <= self.now + timedelta(seconds=PROBE_MOST_S)
        if self.breaker.state is CLOSING:
            assert 2 <= self.breaker.ramp < RUN_LIMIT

    def teardown(self):
        """Once the target stays, everything ends but what it never answers."""
        self.target_answers = True
        for _ in range(400):
            self.now += timedelta(seconds=5)
            for run in sorted(self.waiting, key=lambda run: self.waiting[run]):
                self.grant(run)
            for run in sorted(self.out):
                if run != "poison" or len(self.out) == 1:  # its four tries take longest
                    self.report(run)
        # What is never answered stays parked if it alone is left to probe with; the next message
        # gets it out of there.
        assert {*RUNS, "poison"} - self.ended.keys() <= {"poison"}
        assert self.ended.get("poison") != "completed"


TestOutage = Outage.TestCase
