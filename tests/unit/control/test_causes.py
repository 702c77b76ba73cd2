"""The cause of a dead letter: what is the same in the details of many."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpa.control.causes import CAUSE_CHARS_MAX, Filter, cause_of, group_of

RUN = "019f1c3e-6a52-8d0f-b0a4-6d1f1d9a2c11"
OTHER = "01a205aa-ca1a-8cec-8cd0-8d1837994f52"


@pytest.mark.parametrize(
    ("one", "another", "cause"),
    [
        (
            "HTTP 503 on the last of 4 tries",
            "HTTP 503 on the last of 3 tries",
            "HTTP 503 on the last of … tries",
        ),
        (
            "the target answered HTTP 400 on try 1",
            "the target answered HTTP 400 on try 2",
            "the target answered HTTP 400 on try …",
        ),
        (
            f"an earlier execution ended while it sent {RUN}:17, and the target is declared not "
            "idempotent",
            f"an earlier execution ended while it sent {OTHER}:4:2, and the target is declared not "
            "idempotent",
            "an earlier execution ended while it sent …, and the target is declared not idempotent",
        ),
        (
            "the body has 12345 bytes; 1000 are allowed",
            "the body has 7 bytes; 1 are allowed",
            "the body has … bytes; … are allowed",
        ),
        (
            "the agent failed 3 times, last: ValueError: no such key 'abc 1'",
            "the agent failed 3 times, last: ValueError: no such key 'x'",
            "the agent failed … times, last: ValueError: no such key …",
        ),
        (
            "GET http://api.example.com:8080/invoices/17?x=1 gave status code 422",
            "GET http://api.example.com:9090/invoices/18 gave status code 422",
            "GET http://api.example.com gave status code 422",
        ),
        (
            "cannot connect to localhost:8080",
            "cannot connect to localhost:51234",
            "cannot connect to localhost",
        ),
        ("10.0.0.7:5432 refused", "10.0.0.7:5433 refused", "10.0.0.7 refused"),
        (
            "$.lines[3].total is missing",
            "$.lines[12].total is missing",
            "$.lines[…].total is missing",
        ),
        (
            "Message could not be consumed after 10 delivery attempts.",
            "Message could not be consumed after 12 delivery attempts.",
            "Message could not be consumed after … delivery attempts.",
        ),
        (
            "due 2026-11-29T08:00:00Z, INV-2026-0012 of 12.50 EUR",
            "due 2026-01-02, RG00256 of 1,000.00 EUR",
            "due … of … EUR",
        ),
        ("a\u202eb\n\nc", "ab c", "ab c"),
        ("", " ", ""),
    ],
)
def test_details_that_differ_in_what_is_a_letter_s_own_have_one_cause(
    one: str, another: str, cause: str
):
    assert cause_of(one) == cause_of(another) == cause


@pytest.mark.parametrize(
    ("one", "another"),
    [
        ("the target answered HTTP 400 on try 1", "the target answered HTTP 422 on try 1"),
        ("cannot connect to one.example:443", "cannot connect to other.example:443"),
        ("10.0.0.7 refused", "10.0.0.8 refused"),
        ("The message expired and was dead lettered.", "its headers are too large"),
    ],
)
def test_troubles_that_differ_stay_apart(one: str, another: str):
    assert cause_of(one) != cause_of(another)


@given(st.text(max_size=5_000))
def test_any_text_has_a_bounded_cause_on_one_line(text: str):
    cause = cause_of(text)
    assert len(cause) <= CAUSE_CHARS_MAX
    assert "\n" not in cause


def test_a_group_is_its_queue_reason_and_cause_and_no_others():
    group = group_of("invoices", "AgentError", cause_of("no such key 'a'"))
    chosen = Filter(queue="invoices", group=group)
    assert chosen.takes("invoices", "AgentError", "no such key 'b'")
    assert not chosen.takes("invoices", "AgentError", "no such value 'b'")
    assert not chosen.takes("invoices", "CrashLoop", "no such key 'b'")
    assert not chosen.takes("orders", "AgentError", "no such key 'b'")
    assert not Filter(reason="CrashLoop").takes("invoices", "AgentError", "")
    assert Filter().takes("invoices", "", "")
