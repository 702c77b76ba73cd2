"""Which JSON comes in."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpa.control.rest.bodies import read_json
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
