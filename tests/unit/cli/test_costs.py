"""How sums and prices read."""

from datetime import UTC, datetime, timedelta
from io import StringIO

import click
import pytest
from rich.console import Console

from bpa.cli import budgets
from bpa.cli.costs import Moment, _print
from bpa.cli.steps import prices, print_steps, unknown
from bpa.control.ledger import By, total_of, with_completed
from bpa.control.rest.cost_schemas import BudgetUse, Cost, Costs, Used
from bpa.control.rest.run_schemas import Run, StepView
from bpa.control.steps import StepState
from bpa.domain.journal import EffectCall, ModelCall

RUN = "01a22823-258c-8d01-b19b-5a138954f256"
NOTHING = with_completed(total_of([]), 0)


def shown(costs, width=80):
    console = Console(file=StringIO(), width=width, highlight=False, markup=False)
    _print(console, costs)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    return [line.split() for line in lines]


def answer(by, *lines):
    completed = sum(line["completed"] for line in lines)
    total = Cost.of(with_completed(total_of(lines), completed))
    costs = [Cost.of(line) for line in lines]
    return Costs(by=by, since=None, until=None, costs=costs, total=total, next_cursor=None)


def line(key, **figures):
    return {**NOTHING, "key": key, **figures}


PAID = {"calls": 1_000, "input_tokens": 1_234_567, "cache_read_tokens": 5, "output_tokens": 30_000}


def test_what_has_no_price_never_reads_as_free():
    listed = line("listed", cost_usd="1.50", **PAID)
    strange = line("strange", unpriced_tokens=1_264_572, **PAID)
    assert shown(answer(By.MODEL, listed, strange)) == [
        ["model", "calls", "input", "from", "cache", "to", "cache", "output", "USD"],
        ["listed", "1,000", "1,234,567", "5", "0", "30,000", "1.50"],
        ["strange", "1,000", "1,234,567", "5", "0", "30,000", "no", "price"],
        ["total", "2,000", "2,469,134", "10", "0", "60,000", "1.50"],
        [],
        ["model", "unpriced", "tokens"],
        ["strange", "1,264,572", *["no", "price:", "add", "it", "to", "prices.toml"]],
        ["total", "1,264,572"],
    ]


def test_lost_calls_stand_apart_with_what_they_cost_at_most():
    lost = {"unknown_calls": 2, "unknown_tokens": 4_000}
    found = shown(
        answer(
            By.DEPLOYMENT,
            line("priced", unknown_usd="0.012", **lost),
            line("partly", unknown_usd="0.012", unknown_unpriced_tokens=2_000, **lost),
            line("strange", unknown_unpriced_tokens=4_000, **lost),
        )
    )
    assert found[6:] == [
        ["deployment", "unknown", "calls", "tokens", "at", "most", "USD", "at", "most"],
        ["priced", "2", "4,000", "0.012"],
        ["partly", "2", "4,000", "0.012", "and", "no", "price"],
        ["strange", "2", "4,000", "no", "price"],
        ["total", "6", "12,000", "0.024", "and", "no", "price"],
    ]


def test_what_a_completed_invoice_cost_stands_apart():
    dear = with_completed(line("dear", cost_usd="0.03"), 2)
    found = shown(answer(By.DEPLOYMENT, dear, line("idle", cost_usd="0.01")))
    assert found[5:] == [
        ["deployment", "completed", "USD", "each"],
        ["dear", "2", "0.015"],
        ["total", "2", "0.02"],
    ]


def test_use_of_budgets_fits_a_terminal_of_80_columns():
    use = BudgetUse(
        deployment_id="invoice-classifier-of-a-rather-long-name-dev", runs=123_456,
        tokens=Used(limit="4000", p50="1510", p95="1510", max="3999", exceeded=0),
        usd=Used(limit=None, p50="0.00275", p95="0.0101", max="0.04999", exceeded=12),
        out_of_calls=0, out_of_time=3,
    )  # fmt: skip
    console = Console(file=StringIO(), width=80, highlight=False, markup=False)
    console.print(budgets.table_of([use]))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == [
        "deployment", "runs", "budget", "limit", "p50", "p95", "max", "ended",
    ]  # fmt: skip
    assert lines[1].split()[2:] == ["tokens", "4,000", "1,510", "1,510", "3,999", "0"]
    assert lines[2].split() == ["USD", "none", "0.00275", "0.0101", "0.04999", "12"]
    assert lines[3].split() == ["time", "3"]


def test_an_attempt_fits_a_terminal_of_80_columns_with_its_run_whole():
    attempt = line(
        RUN, epoch=12, cost_usd="0.00059275", calls=8, input_tokens=12_345, output_tokens=3_000
    )
    header, one = shown(answer(By.ATTEMPT, attempt))
    assert header == ["run", "attempt", "calls", "in", "out", "USD"]
    assert one == [RUN, "12", "8", "12,345", "3,000", "0.00059275"]
    assert "from cache" in " ".join(shown(answer(By.ATTEMPT, attempt), width=120)[0])


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-01T10:00+01:00", datetime(2026, 3, 1, 9, tzinfo=UTC)),
    ],
)
def test_a_time_is_a_date_in_utc_or_so_long_ago(said, meant):
    assert Moment().convert(said, None, None) == meant
    week = Moment().convert("7d", None, None)
    assert abs(datetime.now(UTC) - timedelta(days=7) - week) < timedelta(minutes=1)
    for wrong in ("soon", "7", "7y", "999999w", "2026-13-01"):
        with pytest.raises(click.BadParameter, match="7d"):
            Moment().convert(wrong, None, None)


PRICE = {
    "input": "1", "output": "5", "cache_read": "0.1", "cache_write": "1.25",
    "source": "a list", "version": "7",
}  # fmt: skip
USED = {"input_tokens": 900, "output_tokens": 40, "cache_read_tokens": 100}
AT = datetime(2026, 3, 12, tzinfo=UTC)


def step(seq, **changes):
    fields = {**dict.fromkeys(StepView.__struct_fields__), "state": StepState.RECORDED}
    known = {"seq": seq, "kind": "model", "replays": 0, "started_at": AT, "ended_at": AT}
    return StepView(**{**fields, **known, "cost_usd": "0", "reserved_tokens": 0, **changes})


def a_run(*steps):
    return Run(**{**dict.fromkeys(Run.__struct_fields__), "steps": list(steps)})


def test_a_step_names_whom_it_asked_and_a_run_the_prices():
    call = ModelCall(provider="p", model="m", max_tokens=9, reserved_usd="0.012")
    effect = EffectCall(host="https://erp:443", method="POST", status=201)
    priced = step(0, call=call, usage={**USED, "price": PRICE}, cost_usd="0.00111")
    strange = {"call": ModelCall(provider="p", model="m-2", max_tokens=9)}
    run = a_run(
        priced,
        priced,
        step(2, usage={**USED, "unpriced_tokens": 1040}, **strange),
        step(3, call=call, reserved_tokens=2_000, state=StepState.UNKNOWN),
        step(4, kind="effect", call=effect, usage={}),
        step(5, usage={**USED, "price_source": "a list, 6"}, cost_usd="0.002"),  # earlier release
    )
    assert list(prices(run)) == [
        "m: input 1, from cache 0.1, to cache 1.25, output 5 USD per million tokens (a list, 7)",
        "m-2: no price, its tokens are not in the cost: add it to prices.toml",
    ]
    assert unknown(run) == "1, of 2,000 tokens at most (0.012 USD), not in the cost"
    assert (
        unknown(a_run(step(0, state=StepState.UNKNOWN)))
        == "1, of 0 tokens at most, not in the cost"
    )
    console = Console(file=StringIO(), width=80, highlight=False, markup=False)
    print_steps(console, run)
    rows = [row.split() for row in console.file.getvalue().splitlines()[2:]]
    assert rows[0] == ["0", "m", "0", "ms", "1,000", "40", "0.00111", "recorded"]
    assert rows[2] == ["2", "m-2", "0", "ms", "1,000", "40", "no", "price", "recorded"]
    assert rows[4][1:3] == ["POST", "https://erp:443"]
    assert rows[5] == ["5", "model", "0", "ms", "1,000", "40", "0.002", "recorded"]
