"""Idempotency keys as structured-field strings, and the book of what came under them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpa.embedded.target.keys import Applied, Book, digest_of, parse_key
from bpa.errors import InvalidRequest

PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=255)


@given(PRINTABLE)
def test_every_printable_key_comes_through_its_quotes(key):
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    assert parse_key(f'"{escaped}"') == key


@pytest.mark.parametrize(
    "header",
    [None, "", "k", '"', '""', '"a', 'a"', '"a""b"', '"a\\"', '"a\\b"', '"ä"', '"a\n"', '"a";p=1'],
)
def test_anything_else_is_refused(header):
    with pytest.raises(InvalidRequest):
        parse_key(header)


def applied(key):
    return Applied(
        key=key,
        path="/invoices",
        body=b"{}",
        digest=digest_of(b"{}"),
        answer={"id": key},
        at="2026-01-01T00:00:00+00:00",
    )


def test_a_key_in_flight_is_held_until_its_end():
    book = Book()
    assert book.begin("k", "d1") is None
    assert book.begin("k", "d2") == "d1"
    assert book.begin("other", "d2") is None
    book.end("k")
    assert book.begin("k", "d2") is None


def test_a_page_holds_what_was_applied_after_its_cursor():
    book = Book()
    for number in range(5):
        book.apply(applied(f"k{number}"))
    assert [item.key for item in book.received(1, 2)] == ["k1", "k2"]
    assert book.received(5, 2) == []
    assert book.applied_count == 5


def test_tries_are_counted_with_their_outcomes_and_bodies():
    book = Book()
    book.tried("k", "d1", "t1")
    book.ended("k", "scripted:503")
    book.tried("k", "d2", "t2")
    book.ended("k", "applied")
    book.ended(None, "idempotency_key:400")
    tries = book.tries("k")
    assert tries is not None
    assert (tries.count, tries.first_at, tries.last_at, len(tries.bodies)) == (2, "t1", "t2", 2)
    assert tries.by_outcome == {"scripted:503": 1, "applied": 1}
    assert book.totals() == {"scripted:503": 1, "applied": 1, "idempotency_key:400": 1}
    assert (book.try_count, book.key_count) == (2, 1)


def test_what_is_restored_counts_as_one_try():
    book = Book()
    book.restore(applied("k"))
    tries = book.tries("k")
    assert tries is not None
    assert tries.count == 1
    assert book.known("k") is not None
