from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpa.demo.seen import Seen
from bpa.demo.summary import Money, percentile, summarize
from tests.unit.demo.worlds import BALANCED, EXPECTED, invoice_of, run_of


def test_a_summary_counts_what_was_seen():
    summary = summarize(EXPECTED, BALANCED, [], 1.23456)
    assert summary.balanced
    assert (summary.documents, summary.completed, summary.unfinished) == (3, 2, 0)
    assert summary.dead_lettered == {"BudgetExceeded": 1}
    assert (summary.tokens_in, summary.tokens_out, summary.cost_usd) == (1000, 80, "0.0042")
    assert summary.took_s == 1.235
    assert summary.target.received == 2
    assert summary.target.by_route == {"it": 1, "office": 1}


def test_latency_is_that_of_completed_runs():
    summary = summarize(EXPECTED, BALANCED, [], 1)
    assert (summary.latency_p50_ms, summary.latency_p95_ms) == (150.0, 195.0)


def test_discrepancies_make_it_unbalanced_and_are_told():
    summary = summarize(EXPECTED, BALANCED, ["1.json: odd"], 1)
    assert not summary.balanced
    assert summary.discrepancies == ["1.json: odd"]


def test_what_lives_or_never_came_is_unfinished():
    seen = replace(BALANCED, runs=(run_of(1), run_of(2, status="running", latency_ms=None)))
    assert summarize(EXPECTED, seen, ["x"], 1).unfinished == 2
    assert summarize(EXPECTED, Seen(), ["x"], 1).latency_p50_ms is None


def test_credit_is_added_up_by_itself_whatever_its_sign():
    third = invoice_of(2, total="2.00")
    seen = replace(BALANCED, received=(*BALANCED.received, third))
    money = summarize(EXPECTED, seen, [], 1).target.by_currency
    assert money["AUD"] == Money(
        invoices=0, invoices_total="0", credit_notes=2, credit_notes_total="9.00"
    )
    assert money["EUR"].invoices_total == "12.50"


def test_a_body_without_an_amount_does_not_break_the_sums():
    seen = replace(BALANCED, received=(invoice_of(1, total=None, currency=None),))
    assert summarize(EXPECTED, seen, ["x"], 1).target.by_currency["None"].invoices_total == "0"


def test_a_summary_is_one_json_document():
    summary = summarize(EXPECTED, BALANCED, [], 1)
    assert msgspec.json.decode(msgspec.json.encode(summary), type=type(summary)) == summary


values = st.lists(st.floats(0, 1e6), min_size=1)


@given(values, st.floats(0, 1))
def test_a_percentile_lies_between_the_extremes_and_grows_with_its_share(measured, share):
    value = percentile(measured, share)
    assert value is not None
    assert min(measured) - 0.001 <= value <= max(measured) + 0.001
    assert percentile(measured, 0) == pytest.approx(min(measured), abs=0.001)
    assert percentile(measured, 1) == pytest.approx(max(measured), abs=0.001)


def test_there_is_no_percentile_of_nothing():
    assert percentile([], 0.5) is None
