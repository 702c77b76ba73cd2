"""Rules, and the counting of where they apply."""

import msgspec
import pytest

from bpa.embedded.script import Script, decode_rules
from bpa.errors import InvalidRequest


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    times: int | None = None
    every: int = 1


def names(script, count, fits=lambda _rule: True):
    chosen = [script.choose(fits) for _ in range(count)]
    return [rule.name if rule else "-" for rule in chosen]


def of(*rules):
    script = Script()
    script.replace(rules)
    return script


def test_without_rules_nothing_applies():
    assert Script().choose(lambda _: True) is None
    assert Script().is_empty


def test_the_first_rule_that_fits_applies():
    script = of(Rule("a"), Rule("b"))
    assert names(script, 2) == ["a", "a"]
    assert names(script, 1, lambda rule: rule.name == "b") == ["b"]


def test_a_used_up_rule_makes_way_for_the_next():
    assert names(of(Rule("a", times=2), Rule("b", times=1)), 4) == ["a", "a", "b", "-"]


def test_zero_times_is_never():
    assert names(of(Rule("a", times=0)), 2) == ["-", "-"]


def test_every_nth_match_applies_and_the_others_fall_through():
    assert names(of(Rule("a", every=3), Rule("b")), 6) == ["b", "b", "a", "b", "b", "a"]


def test_a_replaced_script_counts_afresh():
    script = of(Rule("a", times=1))
    assert names(script, 2) == ["a", "-"]
    script.replace([Rule("a", times=1)])
    assert names(script, 2) == ["a", "-"]


def test_the_counts_are_told_with_the_rules():
    script = of(Rule("a", every=2))
    names(script, 3)
    (told,) = script.describe()["rules"]
    assert (told["matched"], told["applied"]) == (3, 1)
    assert told["rule"]["name"] == "a"


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"rules": {}}', b'{"rules": [{"nam": "a"}]}', b"\xff", b"[" * 99_999],
)
def test_a_wrong_script_is_an_invalid_request(body):
    with pytest.raises(InvalidRequest):
        decode_rules(body, Rule)


def test_a_script_is_decoded_to_its_kind_of_rule():
    assert decode_rules(b'{"rules": [{"name": "a", "times": null}]}', Rule) == [Rule("a")]
