"""Messages as strangers may write them, decoded from AMQP bytes by the SDK."""

import math
import uuid
from datetime import UTC, datetime

import pytest
from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus._pyamqp._encode import encode_payload
from azure.servicebus._pyamqp.message import Header, Properties
from azure.servicebus._pyamqp.message import Message as AmqpMessage
from azure.servicebus._pyamqp.utils import amqp_long_value
from hypothesis import given
from hypothesis import strategies as st

from bpa.connectors import OutgoingMessage
from bpa.connectors.service_bus.messages import as_message, as_sdk_message, text

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER_TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319d-b7ad6b7169203331-00"
ENQUEUED_MS = 1_795_000_000_123

BROKER_ANNOTATIONS = {
    b"x-opt-sequence-number": 42,
    b"x-opt-enqueued-time": amqp_long_value(ENQUEUED_MS),
    b"x-opt-locked-until": amqp_long_value(ENQUEUED_MS + 60_000),
}


def received(**sections) -> ServiceBusReceivedMessage:
    sections.setdefault("message_annotations", BROKER_ANNOTATIONS)
    payload = bytearray()
    encode_payload(payload, AmqpMessage(**sections))
    return ServiceBusReceivedMessage.from_bytes(bytes(payload))


def test_a_message_keeps_what_the_broker_and_the_sender_wrote():
    message = as_message(
        received(
            data=[b'{"a": 1}'],
            header=Header(delivery_count=3),
            properties=Properties(message_id="m-1", content_type="application/json"),
            application_properties={"tenant": "acme", "urgent": True, "n": 7},
        ),
        "receipt",
    )
    assert message.body == b'{"a": 1}'
    assert (message.message_id, message.content_type) == ("m-1", "application/json")
    assert (message.sequence_number, message.delivery_count) == (42, 3)
    assert message.enqueued_ms == ENQUEUED_MS
    assert message.enqueued_at == datetime.fromtimestamp(ENQUEUED_MS // 1000, UTC).replace(
        microsecond=123_000
    )
    assert message.locked_until.utcoffset() is not None
    assert dict(message.properties) == {"tenant": "acme", "urgent": True, "n": 7}
    assert message.receipt == "receipt"
    assert message.undecodable is None


def test_the_sections_of_a_body_are_joined():
    assert as_message(received(data=[b"one ", b"", b"two"]), None).body == b"one two"


def test_an_empty_body_is_empty_and_not_undecodable():
    message = as_message(received(data=[b""]), None)
    assert (message.body, message.undecodable) == (b"", None)


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"value": {"total": 1}}, "AMQP value body of type dict"),
        ({"value": "text"}, "AMQP value body of type"),
        ({"value": 7}, "AMQP value body of type int"),
        ({"sequence": [[1, 2]]}, "AMQP sequence body"),
    ],
)
def test_a_body_that_is_not_bytes_says_why(sections, why):
    message = as_message(received(**sections), None)
    assert message.body == b""
    assert message.undecodable is not None
    assert message.undecodable.startswith(why)


def test_hostile_properties_become_text():
    message = as_message(
        received(
            data=[b"x"],
            properties=Properties(message_id=uuid.UUID(int=1), content_type=b"\xff\xfe"),
            application_properties={
                b"\xff": b"\xfe",
                "list": [1, 2],
                "id": uuid.UUID(int=2),
                "none": None,
                "nan": math.nan,
                "nul": "a\x00b",
            },
        ),
        None,
    )
    assert message.message_id == str(uuid.UUID(int=1))
    assert message.content_type == "\ufffd\ufffd"
    assert message.properties["\ufffd"] == "\ufffd"
    assert message.properties["list"] == "[1, 2]"
    assert message.properties["id"] == str(uuid.UUID(int=2))
    assert message.properties["none"] == "None"


amqp_scalars = st.one_of(
    st.text(), st.binary(), st.booleans(), st.floats(), st.none(), st.uuids(), st.integers(-9, 9)
)


@given(st.dictionaries(st.one_of(st.text(), st.binary()), amqp_scalars, max_size=5))
def test_no_property_a_stranger_writes_raises(properties):
    message = as_message(received(data=[b"x"], application_properties=properties), None)
    assert all(isinstance(name, str) for name in message.properties)
    assert all(isinstance(v, str | int | float | bool) for v in message.properties.values())


def test_traceparent_wins_over_diagnostic_id():
    message = as_message(
        received(
            data=[b"x"],
            application_properties={
                b"traceparent": TRACEPARENT.encode(),
                "tracestate": "vendor=1",
                "Diagnostic-Id": OTHER_TRACEPARENT,
            },
        ),
        None,
    )
    assert (message.traceparent, message.tracestate) == (TRACEPARENT, "vendor=1")


def test_diagnostic_id_is_the_second_choice():
    message = as_message(
        received(
            data=[b"x"],
            application_properties={"traceparent": "nonsense", "Diagnostic-Id": TRACEPARENT},
        ),
        None,
    )
    assert message.traceparent == TRACEPARENT


@pytest.mark.parametrize(
    "wrong", ["", "00-" + "0" * 32 + "-b7ad6b7169203331-01", TRACEPARENT + "\n", "|abc.def", 7]
)
def test_an_invalid_trace_context_is_none(wrong):
    message = as_message(
        received(data=[b"x"], application_properties={"traceparent": wrong, "tracestate": "a=b"}),
        None,
    )
    assert (message.traceparent, message.tracestate) == (None, None)


def test_a_sent_message_carries_its_trace_context_in_all_three_properties():
    sent = as_sdk_message(
        OutgoingMessage(
            body=b"{}", properties={"k": 1}, traceparent=TRACEPARENT, tracestate="vendor=1"
        )
    )
    assert sent.application_properties == {
        "k": 1,
        "traceparent": TRACEPARENT,
        "tracestate": "vendor=1",
        "Diagnostic-Id": TRACEPARENT,
    }
    assert sent.content_type == "application/json"


def test_a_sent_message_without_an_id_gets_one():
    first, second = (as_sdk_message(OutgoingMessage(body=b"{}")).message_id for _ in range(2))
    assert first
    assert first != second
    assert as_sdk_message(OutgoingMessage(body=b"{}", message_id="mine")).message_id == "mine"


def test_text_reads_any_buffer():
    assert text(memoryview(b"ab")) == "ab"
    assert text(bytearray(b"ab")) == "ab"
