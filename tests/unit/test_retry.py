from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpa.retry import RetryPolicy, ceiling_s, is_retryable_status, parse_retry_after, pause_s

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)

policies = st.builds(
    RetryPolicy,
    tries=st.integers(1, 10),
    base_s=st.floats(0, 10),
    cap_s=st.floats(0, 60),
    retry_after_cap_s=st.floats(0, 120),
)
draws = st.floats(0, 1, exclude_max=True)


@given(policies, st.integers(1, 10_000), draws)
def test_a_pause_stays_below_the_ceiling_and_the_ceiling_below_the_cap(policy, tries_made, draw):
    ceiling = ceiling_s(policy, tries_made)
    assert 0 <= pause_s(policy, tries_made, draw) <= ceiling <= policy.cap_s


@given(policies, st.integers(1, 100))
def test_ceilings_never_shrink_with_more_tries(policy, tries_made):
    assert ceiling_s(policy, tries_made) <= ceiling_s(policy, tries_made + 1)


def test_ceilings_double_until_the_cap():
    policy = RetryPolicy(base_s=0.2, cap_s=1.0)
    assert [ceiling_s(policy, n) for n in (1, 2, 3, 4, 5)] == pytest.approx([0.2, 0.4, 0.8, 1, 1])


@given(policies, draws, st.floats(0, 1e9))
def test_retry_after_is_a_lower_bound_up_to_its_cap(policy, draw, asked_s):
    pause = pause_s(policy, 1, draw, asked_s)
    honoured = min(asked_s, policy.retry_after_cap_s)
    assert honoured <= pause <= honoured + policy.base_s


def test_retry_after_in_seconds_is_read():
    assert parse_retry_after("7", NOW) == 7
    assert parse_retry_after(" 0 ", NOW) == 0


def test_retry_after_as_a_date_is_read_against_now():
    later = format_datetime(NOW + timedelta(seconds=90), usegmt=True)
    earlier = format_datetime(NOW - timedelta(days=1), usegmt=True)
    assert parse_retry_after(later, NOW) == 90
    assert parse_retry_after(earlier, NOW) == 0


@pytest.mark.parametrize(
    "value", [None, "", "soon", "-5", "1.5", "٣", "Sun, 99 Nov 2026 12:00 GMT"]
)
def test_an_unusable_retry_after_is_no_retry_after(value):
    assert parse_retry_after(value, NOW) is None


@given(st.text())
def test_any_retry_after_header_gives_seconds_or_none(value):
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or seconds >= 0


@given(st.integers(100, 599))
def test_only_5xx_and_429_are_worth_another_try(status):
    assert is_retryable_status(status) == (status >= 500 or status == 429)


@pytest.mark.parametrize("wrong", [{"tries": 0}, {"base_s": -1.0}, {"cap_s": -0.1}])
def test_a_policy_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="must"):
        RetryPolicy(**wrong)
