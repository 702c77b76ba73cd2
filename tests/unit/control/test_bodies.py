"""Which JSON comes in."""

import contextlib
import json
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpa.control.rest.bodies import read_as, read_json
from bpa.errors import InvalidRequest

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(PLAIN)
def test_what_can_be_kept_comes_in_as_it_is(value):
    raw = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    try:
        raw.decode()
        is_text = "\0" not in str(json.loads(raw)) and b"\\u0000" not in raw
    except UnicodeDecodeError:
        is_text = False
    if is_text:
        assert read_json(raw) == value
    else:
        with pytest.raises(InvalidRequest):
            read_json(raw)


@given(st.binary())
def test_any_bytes_are_a_document_or_an_invalid_request(raw):
    with contextlib.suppress(InvalidRequest):
        read_json(raw)


def test_a_number_may_have_all_of_its_64_bits():
    for number in (2**63 - 1, -(2**63)):
        assert read_json(b"[%d]" % number) == [number]
    for number in (2**63, -(2**63) - 1):
        with pytest.raises(InvalidRequest, match="64 bits"):
            read_json(b"[%d]" % number)


MEMBERS = st.recursive(
    st.none() | st.integers(-9, 9) | st.text(st.sampled_from('a:"\\{},[]é'), max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.sampled_from('a:"\\'), max_size=3), inner, max_size=3)
    ),
)


@given(MEMBERS, st.booleans())
def test_only_a_member_that_comes_twice_is_one_too_many(value, is_ascii):
    raw = json.dumps({"x": value}, ensure_ascii=is_ascii).encode()
    assert read_json(raw) == {"x": value}
    with pytest.raises(InvalidRequest, match="twice"):
        read_json(b'{"x": 1, ' + raw[1:])


class Wanted(msgspec.Struct):
    number: int = 0
    share: float = 0.0
    is_so: bool = False
    name: str | None = None


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"number": 1.0, "share": 2}', Wanted(number=1, share=2.0)),
        (b'{"number": -0.0, "name": null}', Wanted()),
        (b'{"number": 9007199254740991.0}', Wanted(number=2**53 - 1)),
    ],
)
def test_a_whole_number_is_an_integer_however_it_is_written(raw, expected):
    assert read_as(Wanted, raw) == expected


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b'{"number": "1"}', "body.number: Expected `int`, got `str`"),
        (b'{"number": 1.5}', "body.number: Expected `int`, got `float`"),
        (b'{"is_so": 1}', "body.is_so: Expected `bool`, got `int`"),
        (b'{"share": true}', "body.share: Expected `float`, got `bool`"),
        (b'[{"name": 1}]', "body: Expected `object`, got `array`"),
        (b"null", "body: Expected `object`, got `null`"),
    ],
)
def test_a_body_is_what_it_says_or_an_invalid_request(raw, told):
    with pytest.raises(InvalidRequest, match=re.escape(told)):
        read_as(Wanted, raw)


def test_a_body_that_may_be_left_out_is_not_null_instead():
    with pytest.raises(InvalidRequest, match="body: Expected `object`, got `null`"):
        read_as(Wanted | None, b"null")
