"""How a run's spans are named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpa.telemetry.spans import SpanContext, received, replaying, span_id

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENDER = f"00-{TRACE}-{SPAN}-01"


def test_a_traceparent_is_read_and_written_as_w3c_has_it():
    context = SpanContext.parse(SENDER)
    assert context == SpanContext(TRACE, SPAN, "01")
    assert context.is_sampled
    assert str(context) == SENDER
    assert not SpanContext(TRACE, SPAN, "00").is_sampled


@pytest.mark.parametrize(
    "header",
    [
        "",
        "hello",
        SENDER.upper(),
        SENDER[:-1],
        f"{SENDER}-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)
def test_what_names_no_span_is_none(header):
    assert SpanContext.parse(header) is None


def test_what_a_later_version_appends_is_passed_over():
    assert SpanContext.parse(f"cc-{TRACE}-{SPAN}-01-what-comes") == SpanContext(TRACE, SPAN, "01")


def test_a_run_is_received_in_its_senders_trace_with_the_senders_wish():
    context = received("run-1", SENDER.replace("-01", "-00"))
    assert (context.trace_id, context.flags) == (TRACE, "00")
    assert context.span_id == span_id("run-1", "receive") != SPAN


def test_a_run_without_a_sender_has_a_trace_of_its_own_the_same_at_each_delivery():
    assert received("run-1", "") == received("run-1", "malformed")
    assert received("run-1", "").trace_id != received("run-2", "").trace_id
    assert received("run-1", "").trace_id == replaying("run-1").trace_id


PARTS = st.tuples(
    st.uuids().map(str),
    st.sampled_from(["receive", "plan", "lease", "think", "chat", "http.out", "complete"]),
    st.integers(0, 1 << 40),
    st.integers(0, 1 << 20),
)


@given(PARTS, PARTS)
def test_a_span_has_one_id_and_shares_it_with_no_other(one, other):
    assert span_id(*one) == span_id(*one)
    assert (span_id(*one) == span_id(*other)) == (one == other)
    assert SpanContext.parse(str(SpanContext(TRACE, span_id(*one)))) is not None
