"""Batches that one bad report cannot spoil, JSON without NUL, cursors and names."""

import base64
import json
from datetime import UTC, datetime

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpa.control.batches import isolated, jsonb
from bpa.control.cursors import cursor_of, read_cursor
from bpa.control.names import check_names
from bpa.errors import Conflict, InvalidRequest, Unavailable

RUN = "018f0000-0000-8000-8000-000000000000"


async def test_a_batch_that_is_refused_is_executed_one_by_one():
    batches = []

    async def execute(items):
        batches.append(items)
        if 13 in items:
            raise psycopg.errors.NumericValueOutOfRange("13 is out of range")
        if 7 in items:
            raise psycopg.errors.UniqueViolation("7 is taken")
        return [item * 2 for item in items]

    assert await isolated(execute)([1, 2]) == [2, 4]
    assert batches == [[1, 2]]
    first, second, third, fourth = await isolated(execute)([1, 13, 2, 7])
    assert (first, third) == (2, 4)
    assert isinstance(second, InvalidRequest)
    assert isinstance(fourth, Conflict)


async def test_an_outage_is_everybodys():
    async def execute(items):
        raise Unavailable("Postgres does not answer")

    with pytest.raises(Unavailable):
        await isolated(execute)([1, 2])


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_for_postgres_says_the_same_but_for_nul(value):
    expected = json.loads(json.dumps(value).replace("\\u0000", "\\ufffd"))
    assert "\\u0000" not in jsonb({"s": "a\0\0b\\\0"})
    if "\\\\u0000" not in json.dumps(value):  # a backslash before u0000 that escapes nothing
        assert json.loads(jsonb(value)) == expected


def test_text_that_only_looks_like_an_escaped_nul_is_kept():
    assert json.loads(jsonb(["\\u0000", "\\\0", "\0\0"])) == ["\\u0000", "\\�", "��"]


def test_a_cursor_leads_back_to_its_row():
    at = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    assert read_cursor(cursor_of({"created_at": at, "run_id": RUN})) == (at, RUN)


@pytest.mark.parametrize(
    "text",
    ["", "2026-01-01T00:00:00+00:00", f"|{RUN}", "2026-01-01T00:00:00+00:00|nope", f"x|{RUN}",
     f"9999-12-31T23:59:59-14:00|{RUN}", f"0001-01-01T00:00:00+14:00|{RUN}"],
)  # fmt: skip
def test_a_cursor_of_somebody_else_is_refused(text):
    for cursor in (text, base64.urlsafe_b64encode(text.encode()).decode(), "ü"):
        with pytest.raises(InvalidRequest):
            read_cursor(cursor)


@pytest.mark.parametrize("name", ["a", "node-1", "1.0.0+build.7", "A_b", "x" * 253])
def test_a_name_that_will_do(name):
    check_names(agentId=name)


@pytest.mark.parametrize("name", ["", " ", "a b", "a/b", "a:b", "a\0", "a\n", "-a", "ä", "x" * 254])
def test_a_name_that_will_not_do_is_named(name):
    with pytest.raises(InvalidRequest) as refused:
        check_names(agentId=name, version="1.0.0")
    assert [line.partition(":")[0] for line in refused.value.errors] == ["agentId"]
