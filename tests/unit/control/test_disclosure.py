"""How much of a run's contents is shown, and to whom."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpa.control.disclosure import TEXT_CHARS_MAX, Disclosure, Show
from bpa.control.roles import Role
from bpa.errors import NotAllowed
from bpa.telemetry.redaction import redactor

REDACT = redactor(["hunter2-hunter2"])
MASKED = Disclosure(Show.MASKED, frozenset({"buyer", "note"}), REDACT)
WHOLE = Disclosure(Show.WHOLE, frozenset({"buyer", "note"}), REDACT)
HIDDEN = Disclosure(Show.HIDDEN, frozenset(), REDACT)
PROSE = "Invoice for Ms. Jane Doe, who lives at 5 Elm Street"


def test_operators_see_what_the_setting_lets_them_and_viewers_nothing():
    assert WHOLE.to(Role.OPERATOR) is Show.WHOLE
    assert WHOLE.to(Role.VIEWER) is Show.HIDDEN
    WHOLE.must_show(Role.OPERATOR)
    with pytest.raises(NotAllowed, match="operators alone"):
        WHOLE.must_show(Role.VIEWER)
    with pytest.raises(NotAllowed, match=r"contents\.show"):
        HIDDEN.must_show(Role.OPERATOR)


def test_masked_shows_fields_and_of_prose_its_length():
    invoice = json.dumps({"total": "5", "Buyer": "Jane", "lines": [{"note": ["x"], "qty": 2}]})
    assert json.loads(MASKED.text(invoice)) == {
        "total": "5", "Buyer": "(withheld)", "lines": [{"note": "(withheld)", "qty": 2}],
    }  # fmt: skip
    assert MASKED.text(PROSE) == f"(withheld: {len(PROSE)} characters)"
    assert MASKED.text('"a string alone"').startswith("(withheld")
    assert MASKED.text('{"cut": "of').startswith("(withheld")


def test_whole_shows_all_but_secrets():
    assert WHOLE.text(PROSE) == PROSE
    assert json.loads(WHOLE.text('{"buyer": "Jane"}')) == {"buyer": "Jane"}
    for one in (MASKED, WHOLE):
        shown = one.text('{"Authorization": "x", "url": "https://u:pw-pw-pw@h/", "n": 1}')
        assert json.loads(shown) == {
            "Authorization": "(withheld)", "url": "https://u:***@h/", "n": 1,
        }  # fmt: skip
        assert "hunter2" not in one.text('{"a": ["hunter2-hunter2"], "hunter2-hunter2": 1}')
    assert WHOLE.text("Bearer abcdefghijkl") == "Bearer ***"


def test_a_text_of_any_length_and_depth_is_bounded():
    assert len(WHOLE.text("x" * (2 * TEXT_CHARS_MAX))) < TEXT_CHARS_MAX + 100
    assert "(withheld)" in WHOLE.text("[" * 200 + "]" * 200)
    assert WHOLE.text("[" * 100_000).startswith("[")


@given(st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
))  # fmt: skip
def test_what_a_masked_field_holds_is_never_shown(value):
    planted = {"a": [{"buyer": ["4242-4242", value], "b": value}], "note": "4242-4242"}
    inside = {"c": json.dumps(planted), "d": [json.dumps([json.dumps(planted)])]}
    assert "4242" not in MASKED.text(json.dumps(planted))
    assert "4242" not in MASKED.text(json.dumps(inside))
