"""When a node's breaker opens, and who passes it then."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bpa.connectors.breaker import RULES, Breaker, host_of, is_failure
from bpa.domain.executions import Admission

ANY = Admission()


def feed(breaker, *requests):
    """Note (run, status) pairs, a second apart; return at which of them the breaker opened."""
    return [
        nth
        for nth, (run, status) in enumerate(requests)
        if breaker.note(float(nth), run, status, sent_under=breaker.closings)
    ]


def failures(*counts):
    """Return so many failures of each of so many runs, in turns."""
    turns = [[f"r{run}"] * count for run, count in enumerate(counts)]
    return [(run[n], 503) for n in range(max(counts)) for run in turns if n < len(run)]


def test_it_opens_with_the_tenth_failure_of_three_runs():
    breaker = Breaker()
    assert feed(breaker, *failures(4, 3, 2)) == []
    assert breaker.admits(ANY)
    assert feed(breaker, ("r2", 503)) == [0]
    assert not breaker.admits(ANY)
    assert breaker.last_error == "HTTP 503"


@pytest.mark.parametrize("counts", [(40,), (20, 20)])
def test_one_run_or_two_never_open_it_however_often_they_fail(counts):
    assert feed(Breaker(), *failures(*counts)) == []


def test_many_runs_do_not_open_it_while_more_than_half_is_answered():
    mixed = [(f"r{n}", 201 if n % 5 < 3 else 503) for n in range(500)]
    assert feed(Breaker(), *mixed) == []


def test_runs_that_get_through_in_the_end_have_not_failed():
    stumbling = [(f"r{n // 4}", 201 if n % 4 == 3 else 503) for n in range(400)]
    assert feed(Breaker(), *stumbling) == []


def test_a_long_time_of_success_does_not_delay_it():
    healthy = [(f"h{n}", 201) for n in range(5000)]
    assert feed(Breaker(), *healthy, *failures(4, 4, 4)) == [5009]


def test_failures_of_long_ago_are_forgotten():
    breaker = Breaker()
    feed(breaker, *failures(3, 3, 3))
    assert not breaker.note(RULES.window_s + 100, "r9", 503, sent_under=0)


@pytest.mark.parametrize(
    ("status", "speaks_against_the_host"),
    [(None, True), (500, True), (503, True), (599, True), (429, True)]
    + [(status, False) for status in (200, 201, 302, 400, 401, 404, 409, 422)],
)
def test_what_is_tried_again_speaks_against_the_host(status, speaks_against_the_host):
    assert is_failure(status) is speaks_against_the_host


def test_a_key_that_is_still_in_flight_says_nothing():
    breaker = Breaker()
    feed(breaker, *failures(3, 3, 3), *[("r1", 409)] * 30)
    assert feed(breaker, ("r2", None)) == [0]
    assert breaker.last_error == "no answer"


def test_only_the_news_of_a_closing_closes_it():
    breaker = Breaker()
    feed(breaker, *failures(4, 4, 4), *[("late", 201)] * 50)
    assert not breaker.admits(Admission(closings=0, watched=True))
    assert breaker.admits(Admission(closings=1))
    assert breaker.admits(ANY)  # offered before, sent after: the host answers again
    assert feed(breaker, *failures(3, 3, 3)) == []  # and all is forgotten


def test_a_probe_passes_an_open_breaker_with_one_request():
    breaker = Breaker()
    feed(breaker, *failures(4, 4, 4))
    probe = Admission(probe=True, watched=True)
    assert breaker.admits(probe)
    assert not breaker.admits(probe, failures=1)
    assert not breaker.admits(ANY)
    assert not Breaker().admits(probe, failures=1)


def test_what_was_sent_before_a_closing_does_not_open_it_again():
    breaker = Breaker()
    feed(breaker, *failures(4, 4, 4))
    assert breaker.admits(Admission(closings=1))
    late = [breaker.note(20.0 + n, f"r{n}", 503, sent_under=0) for n in range(30)]
    assert not any(late)
    assert breaker.admits(ANY)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://127.0.0.1:8084/invoices", "http://127.0.0.1:8084"),
        ("https://API.example.com/v1?key=secret", "https://api.example.com:443"),
        ("http://user:secret@example.com", "http://example.com:80"),
        ("http://[::1]:80/x", "http://[::1]:80"),
        ("ftp://example.com/", ""),
        ("http://example.com:99999/", ""),
        ("http://[broken/", ""),
        ("http:///nothing", ""),
        ("nonsense", ""),
        ("", ""),
        (f"http://{'a' * 400}/", ""),
    ],
)
def test_breakers_are_told_apart_by_scheme_host_and_port(url, host):
    assert host_of(url) == host


@given(st.text())
def test_no_address_breaks_it(url):
    assert len(host_of(url)) <= 300


class Node(RuleBasedStateMachine):
    """A breaker beside the plain list of all that was noted since it last heard of a closing."""

    def __init__(self):
        super().__init__()
        self.breaker = Breaker()
        self.now_s = 0.0
        self.noted = []
        self.fleet = 0

    @rule(
        run=st.sampled_from("abcd"),
        status=st.sampled_from([None, 500, 503, 429, 201, 201, 422, 409]),
        pause_s=st.sampled_from([0.0, 1.0, 40.0]),
        closings_ago=st.integers(0, 1),
    )
    def note(self, run, status, pause_s, closings_ago):
        self.now_s += pause_s
        was_open = self.breaker.is_open
        sent_under = self.breaker.closings - closings_ago
        opened = self.breaker.note(self.now_s, run, status, sent_under=sent_under)
        if not closings_ago and status != 409:
            if not is_failure(status):
                self.noted = [r for r in self.noted[-RULES.window :] if r[1] != run or not r[2]]
            self.noted.append((self.now_s, run, is_failure(status)))
        recent = [r for r in self.noted[-RULES.window :] if r[0] >= self.now_s - RULES.window_s]
        failed = [run for _, run, is_one in recent if is_one]
        if opened:
            assert len(failed) >= 10
            assert len(set(failed)) >= 3
            assert is_failure(status)
        elif not was_open and not closings_ago:
            assert len(failed) < 10 or len(set(failed)) < 3
        assert self.breaker.is_open or not was_open  # nothing that is noted closes it

    @precondition(lambda self: self.breaker.is_open)
    @rule(hears=st.booleans())
    def close(self, hears):
        self.fleet += 1
        if hears:
            assert self.breaker.admits(Admission(closings=self.fleet))
            assert not self.breaker.is_open
            self.noted = []

    @invariant()
    def passes_probes_once_and_others_only_while_closed(self):
        heard = Admission(closings=self.breaker.closings)
        assert self.breaker.admits(heard) is not self.breaker.is_open
        probe = Admission(closings=self.breaker.closings, probe=True)
        assert self.breaker.admits(probe)
        assert not self.breaker.admits(probe, failures=1)


TestNode = Node.TestCase
