"""How values read on a page, and that no stranger's text can do harm there."""

from datetime import UTC, datetime, timedelta

import pytest

from bpa.ui import words

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("a\u202egpj.exe", "agpj.exe"),
        ("zero\u200bwidth", "zerowidth"),
        ("nul\0", "nul"),
        ("<b>", "<b>"),
    ],
)
def test_what_a_reader_does_not_see_is_left_out(hostile, shown):
    assert words.harmless(hostile) == shown


def test_piled_up_marks_are_cut_to_what_a_script_needs():
    shown = words.harmless("e" + "\u0301\u0323" * 10_000)
    assert len(shown) <= 5


def test_a_long_text_is_cut_and_says_so():
    shown = words.harmless("x" * 50_000)
    assert len(shown) == words.TEXT_CHARS_MAX + 1
    assert shown.endswith("…")


def test_moments_are_told_from_now():
    assert words.ago(NOW - timedelta(seconds=3), NOW) == "3 s ago"
    assert words.ago(NOW + timedelta(minutes=5), NOW) == "in 5 min"
    assert words.ago(NOW, NOW) == "now"
    assert words.exact(NOW) == "2026-11-29 12:00:00.000 UTC"


def test_a_share_is_never_rounded_up_to_all():
    assert words.percent(9_999_999, 10_000_000) == "99.9 %"
    assert words.percent(5, 5) == "100 %"
    assert words.percent(0, 0) == "\N{EN DASH}"


def test_of_a_run_id_the_end_is_shown_and_of_other_names_all():
    assert words.brief("01a22849-b3fe-8840-9ef0-9654bce10154") == "…bce10154"
    assert words.brief("invoices:12") == "invoices:12"
