"""The share of successes in a window, and the worst value of one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bpa.telemetry.rates import SuccessRate, Worst


def test_nothing_tried_is_no_rate() -> None:
    assert SuccessRate().value(0.0) is None


def test_a_rate_forgets_what_is_older_than_its_window() -> None:
    rate = SuccessRate(300.0)
    rate.note(0.0, succeeded=False)
    rate.note(200.0, succeeded=True)
    assert rate.value(200.0) == 0.5
    assert rate.value(311.0) == 1.0
    assert rate.value(511.0) is None


@given(st.lists(st.tuples(st.floats(0, 20), st.booleans()), max_size=200))
def test_a_rate_is_that_of_the_requests_in_the_window(steps: list[tuple[float, bool]]) -> None:
    rate, now_s, noted = SuccessRate(60.0), 0.0, []
    for passed_s, succeeded in steps:
        now_s += passed_s
        rate.note(now_s, succeeded=succeeded)
        noted.append((int(now_s // 10), succeeded))
    first = int((now_s - 60.0) // 10) + 1
    recent = [succeeded for slot, succeeded in noted if slot >= first]
    assert rate.value(now_s) == (sum(recent) / len(recent) if recent else None)


def test_the_worst_is_shown_for_one_window_at_least_and_two_at_most() -> None:
    worst = Worst(15.0)
    worst.note(0.0, 0.01)
    worst.note(10.0, 2.0)
    worst.note(20.0, 0.02)
    assert worst.value(29.0) == 2.0
    worst.note(36.0, 0.03)
    assert worst.value(36.0) == 0.03
    assert worst.value(100.0) == 0.0
