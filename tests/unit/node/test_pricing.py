from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpa.domain.journal import UnitPrice, Usage
from bpa.errors import SettingsError
from bpa.node.pricing import Price, Prices, cost_of

LIST = """
version = "7"
source = "a list"
[models."m-1"]
input = "3.00"
output = "15.00"
cache_read = "0.30"
cache_write = "3.75"
"""


def test_a_call_costs_each_kind_of_token_at_its_own_price():
    usage = Usage(
        input_tokens=1000, output_tokens=100, cache_read_tokens=10_000, cache_write_tokens=400
    )
    priced = Prices.parse(LIST).priced(usage, "m-1")
    assert Decimal(priced.cost_usd) == Decimal("0.0030") + Decimal("0.0015") + Decimal(
        "0.003"
    ) + Decimal("0.0015")
    assert priced.price == UnitPrice(
        input="3", output="15", cache_read="0.3", cache_write="3.75", source="a list", version="7"
    )
    assert priced.unpriced_tokens == 0


def test_a_small_cost_is_written_without_an_exponent():
    assert Prices.parse(LIST).priced(Usage(cache_read_tokens=1), "m-1").cost_usd == "0.0000003"


def test_an_answer_by_a_name_that_is_not_listed_costs_what_the_asked_model_does():
    priced = Prices.parse(LIST).priced(Usage(output_tokens=1_000_000), "m-1-of-today", "m-1")
    assert (priced.cost_usd, priced.unpriced_tokens) == ("15", 0)


def test_a_model_without_a_price_leaves_unpriced_tokens_and_no_price():
    priced = Prices.parse(LIST).priced(Usage(input_tokens=5, output_tokens=6), "m-2")
    assert (priced.unpriced_tokens, priced.cost_usd, priced.price) == (11, "0", None)


amounts = st.decimals(0, 10_000, places=6)
counts = st.integers(0, 10**9)


@given(amounts, amounts, amounts, amounts, counts, counts, counts, counts)
def test_a_recorded_amount_is_exact_and_can_be_computed_again_from_its_row(
    input_usd, output_usd, read_usd, write_usd, input_tokens, output_tokens, read, written
):
    prices = Prices("a list", "7", {"m": Price(input_usd, output_usd, read_usd, write_usd)})
    priced = prices.priced(Usage(input_tokens, output_tokens, read, written), "m")
    row = msgspec.json.decode(msgspec.json.encode(priced), type=Usage)
    assert Fraction(row.cost_usd) == Fraction(cost_of(row))
    exact = (
        Fraction(input_usd) * input_tokens
        + Fraction(output_usd) * output_tokens
        + Fraction(read_usd) * read
        + Fraction(write_usd) * written
    ) / 1_000_000
    assert Fraction(row.cost_usd) == exact


def test_a_dated_snapshot_has_the_price_of_its_name():
    prices = Prices.parse(LIST)
    assert prices.price_of("m-1-20250929") == prices.price_of("m-1") is not None
    assert prices.price_of("m-1-next") is None


def test_a_bound_takes_the_dearest_way_to_cache_the_input():
    assert Prices.parse(LIST).cost_at_most("m-1", 1_000_000, 1_000_000) == Decimal("18.75")
    assert Prices.parse(LIST).cost_at_most("m-2", 1, 1) is None
    assert Prices.parse(LIST).dearest_token_usd("m-1") == Decimal("0.000015")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"3.00"', '"three"', "models.m-1.input"),
        ('"3.00"', '"-1"', "models.m-1.input"),
        ('"3.00"', '"NaN"', "models.m-1.input"),
        ('version = "7"', "", "version"),
        ("input =", "inputs =", "inputs"),
        ("[models", "[models[", "prices.toml"),
    ],
)
def test_a_wrong_list_is_refused_by_name(old, new, said):
    with pytest.raises(SettingsError, match=r"prices\.toml") as caught:
        Prices.parse(LIST.replace(old, new))
    assert said in str(caught.value)


def test_the_list_that_comes_with_the_package_is_read():
    prices = Prices.parse(Path("config/prices.toml").read_text("utf-8"))
    assert prices.price_of("claude-sonnet-4-5") is not None
