"""When a clock is wrong for certain, whoever it is compared with."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpa.clocks import Clocks, Offset, of_message, of_renewal, of_round_trip

SECONDS = st.floats(0, 1e9)
OFF = st.floats(-1e4, 1e4)
LONG = st.floats(0, 1e5)
LOCKS = st.floats(5, 300)


class Machine:
    """A machine whose wall clock is off, and can be set."""

    def __init__(self, off_s: float = 0.0) -> None:
        self.off_s = off_s
        self.true_s = 1000.0

    def wall(self) -> float:
        return self.true_s + self.off_s

    def steady(self) -> float:
        return self.true_s - 900.0

    def clocks(self, bound_s: float = 3.0) -> Clocks:
        return Clocks(bound_s, self.wall, self.steady)


@given(at=SECONDS, off=OFF, there=st.floats(0, 60), back=st.floats(0, 60))
def test_a_round_trip_brackets_the_true_offset(at: float, off: float, there: float, back: float):
    offset = of_round_trip(at, at + there + back, at + there + off)
    assert offset.least_s - 1e-6 <= off <= offset.most_s + 1e-6


@given(at=SECONDS, off=OFF, waited=LONG, lock=LOCKS, unread=LONG)
def test_a_message_bounds_the_true_offset_however_late_it_is_read(
    at: float, off: float, waited: float, lock: float, unread: float
):
    broker_sent_s = at + off
    offset = of_message(at + unread, broker_sent_s - waited, broker_sent_s + lock)
    assert offset.least_s - 1e-6 <= off <= offset.most_s + 1e-6


@given(at=SECONDS, off=OFF, lock=LOCKS, there=LONG, back=LONG)
def test_a_renewal_brackets_the_true_offset(
    at: float, off: float, lock: float, there: float, back: float
):
    offset = of_renewal(at, at + there + back, at + there + off + lock)
    assert offset.least_s - 1e-6 <= off <= offset.most_s + 1e-6


@given(off=st.floats(-3, 3), there=st.floats(0, 60), back=st.floats(0, 60))
def test_a_clock_within_the_bound_is_never_called_wrong(off: float, there: float, back: float):
    assert of_round_trip(0.0, there + back, there + off).excess_s(3.0 + 1e-6) == 0


@pytest.mark.parametrize(
    ("told_s", "where"), [(1010.0, "10 s behind"), (990.0, "10 s ahead of"), (1001.0, None)]
)
def test_trouble_says_which_clock_and_which_way(told_s: float, where: str | None):
    machine = Machine()
    clocks = machine.clocks()
    clocks.heard("Postgres's", of_round_trip(1000.0, 1000.0, told_s))
    trouble = clocks.trouble()
    if where is None:
        assert trouble is None
    else:
        assert f"our clock is {where} Postgres's" in str(trouble)
        assert "control.clock_skew_max_s" in str(trouble)


def test_a_step_of_our_clock_shows_at_once_and_so_does_its_correction():
    machine = Machine()
    clocks = machine.clocks()
    clocks.heard("Postgres's", Offset(-0.1, 0.1))
    assert clocks.trouble() is None
    machine.off_s = 60.0
    assert "60 s ahead" in str(clocks.trouble())
    machine.off_s = 0.0
    assert clocks.trouble() is None


def test_a_slow_answer_raises_no_alarm_and_spoils_no_better_one():
    machine = Machine(off_s=20.0)
    clocks = machine.clocks()
    clocks.heard("Postgres's", Offset(-25.0, 5.0))
    assert clocks.trouble() is None
    clocks.heard("Postgres's", Offset(-20.1, -19.9))
    clocks.heard("Postgres's", Offset(-25.0, 5.0))
    assert "20 s ahead" in str(clocks.trouble())


def test_the_other_clock_may_be_set_right_as_well():
    machine = Machine()
    clocks = machine.clocks()
    clocks.heard("Postgres's", Offset(9.9, 10.1))
    assert clocks.trouble()
    clocks.heard("Postgres's", Offset(-0.1, 0.1))
    assert clocks.trouble() is None


def test_what_was_heard_long_ago_counts_no_more():
    machine = Machine()
    clocks = machine.clocks()
    clocks.heard("the broker's", Offset(10.0, 12.0))
    machine.true_s += 599
    assert clocks.trouble()
    machine.true_s += 2
    assert clocks.trouble() is None


def test_a_renewed_lock_that_is_over_says_that_we_are_ahead():
    machine = Machine(off_s=40.0)
    clocks = machine.clocks()
    # of a queue with locks of 30 s
    clocks.heard("the broker's", of_renewal(machine.wall(), machine.wall(), 1030.0))
    assert "ahead of the broker's" in str(clocks.trouble())
