"""The message that replays a dead letter, against qpid-proton's reading of the same bytes."""

import contextlib
import datetime as dt
import uuid

import proton
import pytest
from azure.servicebus import ServiceBusReceivedMessage
from hypothesis import given
from hypothesis import strategies as st

from bpa.amqp import MalformedMessage
from bpa.connectors.service_bus import Rewrite, replayed
from bpa.connectors.service_bus.messages import as_message

OURS = {"x-replayed": True, "x-replay-count": 1, "x-original-message-id": "m-1"}
TYPED = {
    "a-symbol": proton.symbol("sym"),
    "a-timestamp": proton.timestamp(1_795_000_000_123),
    "a-uuid": uuid.UUID(int=7),
    "a-ubyte": proton.ubyte(7),
    "an-int": proton.int32(7),
    "a-ulong": proton.ulong(2**63),
    "a-float": proton.float32(0.5),
    "a-double": 0.1,
    "a-char": proton.char("x"),
    "binary": b"\x00\xff",
    "null": None,
    "false": False,
    "empty": "",
    "a-decimal": proton.decimal64(7),
}


def encoded(body, properties=None, **fields) -> bytes:
    message = proton.Message(body=body, properties=properties, **fields)
    message.annotations = {
        proton.symbol("x-opt-sequence-number"): 42,
        proton.symbol("x-opt-enqueued-time"): proton.timestamp(1),
        proton.symbol("x-opt-partition-key"): "p",
        proton.symbol("mine"): proton.ubyte(3),
    }
    return bytes(message.encode())


def decoded(raw: bytes) -> proton.Message:
    message = proton.Message()
    message.decode(raw)
    return message


def again(raw: bytes, **changes) -> bytes:
    return replayed(raw, Rewrite(message_id="new", properties=OURS, **changes))


def typed(values: dict) -> dict:
    return {key: (type(value), value) for key, value in (values or {}).items()}


BODIES = [
    b"{}",
    b"",
    b"\x00\xff" * 500,
    None,
    "text as an AMQP value",
    {"a": proton.timestamp(5)},
    [1, proton.ubyte(2), "three"],
    proton.timestamp(9),
    proton.decimal128(b"\x01" * 16),
]


@pytest.mark.parametrize("body", BODIES, ids=repr)
def test_the_body_is_kept_to_the_bit_whatever_amqp_type_it_has(body):
    raw = encoded(body, {"DeadLetterReason": "X"}, inferred=isinstance(body, bytes | list))
    before, after = decoded(raw), decoded(again(raw))
    assert (type(after.body), after.body) == (type(before.body), before.body)
    assert after.inferred == before.inferred
    tail = raw[raw.index(b"DeadLetterReason") :]
    assert again(raw).endswith(tail[tail.index(b"X") + 1 :])


def test_the_sender_s_properties_keep_their_values_and_types():
    raw = encoded(b"{}", TYPED)
    after = decoded(again(raw))
    assert typed(after.properties) == typed(decoded(raw).properties) | typed(OURS)


def test_the_properties_section_keeps_all_but_message_id_and_absolute_expiry():
    fields = {
        "id": uuid.UUID(int=1),
        "correlation_id": proton.ulong(9),
        "content_type": "application/xml",
        "content_encoding": "identity",
        "subject": "label",
        "reply_to": "answers",
        "address": "to",
        "user_id": b"me",
        "group_id": "session",
        "group_sequence": 4,
        "reply_to_group_id": "other",
        "creation_time": 12,
        "expiry_time": 13,
    }
    raw = encoded(b"{}", **fields)
    after = decoded(again(raw))
    kept = {name: getattr(after, name) for name in fields}
    assert kept == {**fields, "id": "new", "expiry_time": 0}


def test_the_header_keeps_what_the_sender_chose_and_forgets_the_deliveries():
    raw = encoded(b"{}", durable=True, priority=7, ttl=5, delivery_count=9, first_acquirer=True)
    after = decoded(again(raw))
    assert (after.durable, after.priority, after.ttl) == (True, 7, 5)
    assert (after.delivery_count, after.first_acquirer) == (0, False)


def test_what_the_broker_wrote_is_left_out():
    dead = {"DeadLetterReason": "R", "DeadLetterErrorDescription": "D", "x-replay-run-id": "old"}
    raw = encoded(b"{}", {**dead, "tenant": "acme"})
    after = decoded(again(raw, removed=frozenset({"x-replay-run-id"})))
    assert after.properties == {**OURS, "tenant": "acme"}
    assert after.annotations == {"x-opt-partition-key": "p", "mine": 3}
    assert type(after.annotations["mine"]) is proton.ubyte


def test_a_sender_s_property_of_our_name_gives_way():
    after = decoded(again(encoded(b"{}", {"x-replayed": "no", "x-replay-count": 99})))
    assert after.properties == OURS


@pytest.mark.parametrize("body", [b"{}", "a value", None], ids=repr)
def test_an_edited_body_takes_the_place_of_any_body(body):
    raw = encoded(body, {"tenant": "acme"}, content_type="text/plain", content_encoding="gzip")
    after = ServiceBusReceivedMessage.from_bytes(again(raw, body=b"new" * 200))
    message = as_message(after, None)
    assert (message.body, message.undecodable) == (b"new" * 200, None)
    assert message.content_type == "text/plain"
    assert after.raw_amqp_message.properties.content_encoding is None
    other = as_message(
        ServiceBusReceivedMessage.from_bytes(again(raw, body=b"", content_type="application/json")),
        None,
    )
    assert (other.body, other.content_type) == (b"", "application/json")


def test_a_message_without_any_properties_gets_ours():
    raw = bytes(proton.Message(body=b"x", inferred=True).encode())
    after = as_message(ServiceBusReceivedMessage.from_bytes(again(raw)), None)
    assert (after.body, after.message_id, after.properties) == (b"x", "new", OURS)


def test_the_sdk_reads_what_is_written():
    moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    raw = encoded(b"{}", {"at": proton.timestamp(int(moment.timestamp() * 1000))}, id="m-1")
    after = ServiceBusReceivedMessage.from_bytes(again(raw))
    assert after.message_id == "new"
    assert after.partition_key == "p"
    assert after.sequence_number is None


@given(st.binary(max_size=300))
def test_any_bytes_are_rewritten_or_refused(data):
    with contextlib.suppress(MalformedMessage):
        again(data)
