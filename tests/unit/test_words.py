"""How values read, on pages and in terminals."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from bpa import words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 ms"), (0, "0 ms"), (0.9996, "1 s"), (61.5, "62 s"), (0.25, "250 ms"),
     (1.5, "1.5 s"), (9_000, "2.5 h"), (45, "45 s"), (300, "5 min"),
     (7_200, "2 h"), (400_000, "5 d")],
)  # fmt: skip
def test_a_duration_is_told_in_the_unit_that_suits_it(seconds, text):
    assert words.span(seconds) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [("0", "0.00"), ("12.3456", "12.35"), ("0.0781", "0.0781"), ("0.000737", "0.00074"),
     (Decimal("0.0000001"), "1e-7"), ("1234567.8", "1,234,567.80"), ("nonsense", "nonsense")],
)  # fmt: skip
def test_amounts_keep_the_digits_that_say_something(amount, text):
    assert words.usd(amount) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [("0", "0"), ("0.000000", "0"), ("0.002100", "0.0021"), ("1.5", "1.50"), ("12", "12")],
)
def test_an_exact_amount_keeps_cents_and_loses_zeros_that_say_nothing(amount, text):
    assert words.usd_exactly(amount) == text


def test_a_time_of_day_and_a_segment_of_a_path_are_written_for_everybody():
    at = datetime(2026, 11, 29, 13, 0, tzinfo=timezone(timedelta(hours=1)))
    assert words.clock(at) == words.clock(at.astimezone(UTC)) == "12:00:00 UTC"
    assert words.segment("a/b?c") == "a%2Fb%3Fc"
    assert words.segment("../a b/ü") == "..%2Fa%20b%2F%C3%BC"
