from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpa.domain.executions import BudgetKind
from bpa.domain.journal import Step, StepKind, Usage
from bpa.domain.specs import Budgets
from bpa.node.budget import (
    Consumed,
    Reservation,
    consumed,
    counted_bound,
    excess,
    input_bound,
)

NO_USD = Decimal(0)


def model_step(seq, *, tokens=None, reserved=0, digest="d", cost="0"):
    return Step(
        seq=seq,
        kind=StepKind.MODEL,
        digest=digest,
        reserved_tokens=reserved,
        answer=None if tokens is None else b"{}",
        usage=Usage() if tokens is None else Usage(input_tokens=tokens, cost_usd=cost),
    )


def charged(steps, bounds=None, max_output=10, usd=NO_USD):
    return consumed(
        steps, input_bounds=bounds or {}, max_output_tokens=max_output, lost_token_usd=usd
    )


def test_an_answered_call_is_charged_its_usage_and_not_its_reservation():
    used = charged([model_step(0, tokens=70, reserved=900, cost="0.5")])
    assert used == Consumed(70, 1, Decimal("0.5"))


def test_a_call_whose_answer_was_lost_stays_charged_as_reserved():
    used = charged([model_step(0, reserved=900)], usd=Decimal("0.01"))
    assert used == Consumed(900, 1, Decimal(9))


def test_a_lost_call_is_charged_less_once_an_equal_request_was_counted_or_answered():
    lost = model_step(0, reserved=900)
    assert charged([lost], {"d": 50}).tokens == 60
    assert charged([lost, model_step(1, tokens=40)]).tokens == 40 + 10 + 40
    assert charged([lost, model_step(1, tokens=40, digest="other")]).tokens == 940


def test_an_effect_uses_no_tokens_and_no_call():
    effect = Step(seq=0, kind=StepKind.EFFECT, digest="e", intent=b"x")
    assert charged([effect]) == Consumed()


def test_every_budget_says_what_it_has_and_what_was_wanted():
    budgets = Budgets(max_tokens=100, max_calls=2, max_usd=0.5)
    cheap = Decimal("0.1")
    assert excess(budgets, Consumed(), Reservation(90, 10, cheap)) is None
    tokens = excess(budgets, Consumed(1, 1, NO_USD), Reservation(90, 10, cheap))
    calls = excess(budgets, Consumed(1, 2, NO_USD), Reservation(1, 1, cheap))
    usd = excess(budgets, Consumed(1, 1, Decimal("0.45")), Reservation(1, 1, cheap))
    unpriced = excess(budgets, Consumed(), Reservation(1, 1, None))
    assert None not in (tokens, calls, usd, unpriced)
    assert [e.kind for e in (tokens, calls, usd, unpriced)] == [
        BudgetKind.TOKENS,
        BudgetKind.CALLS,
        BudgetKind.USD,
        BudgetKind.USD,
    ]
    assert "tokens budget of 100: 1 used" in str(tokens)
    assert "prices.toml" in str(unpriced)


def test_without_a_usd_budget_a_model_needs_no_price():
    assert excess(Budgets(max_usd=None), Consumed(), Reservation(1, 1, None)) is None


def test_what_a_replay_inherited_is_not_charged_to_it():
    own = model_step(1, tokens=30, digest="own")
    inherited = msgspec.structs.replace(model_step(0, tokens=70, digest="old"), inherited=True)
    assert charged([inherited, own]) == charged([own])
    assert charged([inherited]) == Consumed()


@given(st.text(max_size=300), st.integers(0, 10**6))
def test_no_bound_is_below_what_it_bounds(text, counted):
    assert input_bound(len(text.encode())) >= len(text)
    assert counted_bound(counted) > counted


@given(
    st.integers(1, 5000),
    st.lists(st.tuples(st.integers(0, 2000), st.floats(0, 1), st.booleans()), max_size=12),
)
def test_no_order_of_calls_and_losses_spends_more_than_the_budget(limit, calls):
    """A call that keeps within its reservation never takes the sum over the limit."""
    budgets = Budgets(max_tokens=limit, max_calls=100)
    steps, spent = [], 0
    for seq, (wanted, share, is_lost) in enumerate(calls):
        reservation = Reservation(wanted, 10, None)
        if excess(budgets, charged(steps), reservation) is not None:
            continue
        used = int(share * reservation.tokens)
        spent += used
        tokens = None if is_lost else used
        steps.append(model_step(seq, tokens=tokens, reserved=reservation.tokens, digest=f"d{seq}"))
    assert spent <= charged(steps).tokens <= limit


@pytest.mark.parametrize("calls", range(1, 5))
def test_the_call_after_the_last_allowed_one_does_not_fit(calls):
    steps = [model_step(seq, tokens=1) for seq in range(calls)]
    assert excess(Budgets(max_calls=calls), charged(steps), Reservation(1, 1, None)) is not None
    assert excess(Budgets(max_calls=calls + 1), charged(steps), Reservation(1, 1, None)) is None
