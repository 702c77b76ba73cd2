"""Transfers, settlement and flow on the wire: OASIS AMQP 1.0, for what the SDKs never send."""

import uuid
from datetime import UTC, datetime

import proton
import pytest

from bpa import amqp
from bpa.embedded.service_bus import QueueConfig, ServiceBusEmulator
from tests.integration.embedded.conformance.peer import peer_of, tag_of
from tests.integration.embedded.service_bus import options_for

EVERY_TYPE = {
    "null": None,
    "true": True,
    "ubyte": proton.ubyte(255),
    "ushort": proton.ushort(65_535),
    "uint": proton.uint(2**32 - 1),
    "ulong": proton.ulong(2**64 - 1),
    "byte": proton.byte(-128),
    "short": proton.short(-32_768),
    "int": proton.int32(-(2**31)),
    "long": -(2**63),
    "float": proton.float32(0.5),
    "double": 0.1,
    "decimal32": proton.decimal32(7),
    "decimal64": proton.decimal64(7),
    "decimal128": proton.decimal128(b"0123456789abcdef"),
    "char": proton.char("é"),
    "timestamp": proton.timestamp(int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)),
    "uuid": uuid.UUID(int=7),
    "binary": b"\x00\xff",
    "string": "é" * 300,
    "symbol": proton.symbol("s"),
    "list": [1, "two", [b"3"]],
    "map": {"k": {"deep": proton.ubyte(1)}},
    "array": proton.Array(proton.UNDESCRIBED, proton.Data.INT, 1, 2),
    "described": proton.Described(proton.symbol("d:x"), "v"),
}


def encoded(value):
    data = proton.Data()
    data.put_object(value)
    return bytes(data.encode())


def section(code, value):
    return amqp.encode_section(code, value)


BODIES = {
    "data": section(amqp.DATA, amqp.encode_binary(b"\x00\xff")),
    "data-twice": section(amqp.DATA, amqp.encode_binary(b"a")) * 2,
    "sequence": section(amqp.SEQUENCE, encoded(list(EVERY_TYPE.values()))),
    "sequence-twice": section(amqp.SEQUENCE, encoded([1])) * 2,
    **{f"value-{name}": section(amqp.VALUE, encoded(value)) for name, value in EVERY_TYPE.items()},
}


@pytest.fixture
async def emulator():
    async with ServiceBusEmulator(options_for()) as running:
        yield running


@pytest.fixture
async def peer(emulator):
    async with peer_of(emulator) as connected:
        yield connected


async def linked(peer, **options):
    sender, receiver = peer.sender("invoices"), peer.receiver("invoices", **options)
    assert await peer.attached(sender) is None
    assert await peer.attached(receiver) is None
    return sender, receiver


def message(body=b"x", **properties):
    return proton.Message(id="m", body=body, **properties).encode()


def decoded(data):
    found = proton.Message()
    found.decode(data)
    return found


async def test_every_body_and_property_type_passes_byte_for_byte(peer):
    sender, receiver = await linked(peer)
    pairs = b"".join(amqp.encode_string(k) + encoded(v) for k, v in EVERY_TYPE.items())
    properties = section(amqp.PROPERTIES, amqp.encode_list([amqp.encode_string("m")]))
    application = section(amqp.APPLICATION_PROPERTIES, amqp.encode_map(pairs, len(EVERY_TYPE)))
    footer = section(amqp.FOOTER, amqp.encode_map(encoded(proton.symbol("f")) + encoded(1), 1))
    for body in BODIES.values():
        bare = properties + application + body + footer
        assert (await peer.send(sender, bare)).remote_state == proton.Delivery.ACCEPTED
        delivery, got = await peer.receive(receiver)
        start = next(at for code, at, *_ in amqp.sections(got) if code == amqp.PROPERTIES)
        assert got[start:] == bare
        await peer.settle(delivery, proton.Delivery.ACCEPTED)


@pytest.mark.parametrize("state", [proton.Delivery.MODIFIED, proton.Delivery.REJECTED])
async def test_changing_properties_leaves_the_types_of_the_others(peer, state):
    sender, receiver = await linked(peer)
    pairs = b"".join(amqp.encode_string(k) + encoded(v) for k, v in EVERY_TYPE.items())
    application = section(amqp.APPLICATION_PROPERTIES, amqp.encode_map(pairs, len(EVERY_TYPE)))
    await peer.send(sender, application + BODIES["sequence"])
    delivery, _ = await peer.receive(receiver)
    if state == proton.Delivery.MODIFIED:
        delivery.local.annotations = {proton.symbol("added"): proton.ubyte(3)}
    else:
        info = {proton.symbol("added"): proton.ubyte(3)}
        delivery.local.condition = proton.Condition("com.microsoft:dead-letter", None, info)
        receiver = peer.receiver("invoices/$deadletterqueue")
        assert await peer.attached(receiver) is None
    assert await peer.settle(delivery, state) == state
    _, got = await peer.receive(receiver)
    value = next(at for code, _, at, _ in amqp.sections(got) if code == amqp.APPLICATION_PROPERTIES)
    found = b"".join(key + item for key, item in amqp.pairs(got, value))
    assert found == pairs + amqp.encode_string("added") + encoded(proton.ubyte(3))
    assert got.endswith(BODIES["sequence"])


async def test_a_message_of_many_frames_passes_both_ways(peer):
    peer.transport.max_frame_size = 4096
    sender, receiver = await linked(peer)
    body = bytes(range(256)) * 900
    await peer.send(sender, message(body))
    delivery, got = await peer.receive(receiver)
    assert decoded(got).body == body
    await peer.settle(delivery, proton.Delivery.ACCEPTED)


async def test_an_aborted_transfer_leaves_nothing_and_the_link_goes_on(peer):
    sender, receiver = await linked(peer)
    await peer.until(lambda: sender.credit > 0)
    aborted = peer.begin(sender)
    sender.send(b"\x00\x53\x75\xb0\x00\x00\xff\xff" + b"x" * 5_000)
    await peer.until(lambda: not peer.transport.pending())
    aborted.abort()
    await peer.send(sender, message(b"after"))
    _, got = await peer.receive(receiver)
    assert decoded(got).body == b"after"


async def test_a_receiver_is_sent_no_more_than_its_credit(peer):
    sender, receiver = await linked(peer)
    for number in range(3):
        await peer.send(sender, message(b"%d" % number))
    assert receiver.queued == 0
    _, got = await peer.receive(receiver)
    assert decoded(got).body == b"0"
    await peer.send(sender, message(b"3"))
    assert (receiver.queued, receiver.credit) == (0, 0)


async def test_drain_uses_up_the_credit_with_what_there_is(peer):
    sender, receiver = await linked(peer)
    await peer.send(sender, message())
    receiver.drain(5)
    await peer.until(lambda: receiver.credit - receiver.queued == 0 or not receiver.draining())
    await peer.receive(receiver, credit=0)
    assert receiver.credit == 0


async def test_the_delivery_tag_is_the_lock_token(peer):
    sender, receiver = await linked(peer)
    await peer.send(sender, message())
    delivery, _ = await peer.receive(receiver)
    response = await peer.request(
        "invoices/$management",
        properties={"operation": "com.microsoft:renew-lock"},
        body={
            "lock-tokens": proton.Array(
                proton.UNDESCRIBED, proton.Data.UUID, uuid.UUID(bytes_le=tag_of(delivery))
            )
        },
    )
    assert response.properties["statusCode"] == 200


@pytest.mark.parametrize(
    ("state", "count"),
    [(proton.Delivery.RELEASED, 0), (proton.Delivery.MODIFIED, 1)],
)
async def test_what_a_settlement_counts(peer, state, count):
    sender, receiver = await linked(peer)
    await peer.send(sender, message())
    delivery, got = await peer.receive(receiver)
    assert decoded(got).delivery_count == 0
    assert await peer.settle(delivery, state) == state
    _, again = await peer.receive(receiver)
    assert decoded(again).delivery_count == count


async def test_a_pre_settled_receiver_removes_on_receipt(peer):
    sender, receiver = await linked(peer, settled=True)
    await peer.send(sender, message())
    delivery, _ = await peer.receive(receiver)
    assert delivery.settled
    response = await peer.request(
        "invoices/$management",
        properties={"operation": "com.microsoft:peek-message"},
        body={"from-sequence-number": 1, "message-count": proton.int32(5)},
    )
    assert response.properties["statusCode"] == 204


@pytest.mark.parametrize(
    "data", [b"", b"nonsense", b"\x00\x53\x75\xa0\xff", b"\x00\x53\x70\x45"[:3]]
)
async def test_what_is_no_message_is_refused_and_the_link_goes_on(peer, data):
    sender, _ = await linked(peer)
    delivery = await peer.send(sender, data)
    assert delivery.remote_state == proton.Delivery.REJECTED
    assert delivery.remote.condition.name == "amqp:decode-error"
    assert (await peer.send(sender, message())).remote_state == proton.Delivery.ACCEPTED


@pytest.mark.parametrize(
    ("operation", "body", "status"),
    [
        ("renew-lock", {"lock-tokens": 7}, 400),
        ("peek-message", {}, 400),
        ("schedule-message", {"messages": [{"message": b"nonsense"}]}, 400),
        ("schedule-message", {"messages": [{"message": message()}]}, 400),
        ("cancel-scheduled-message", {"sequence-numbers": [1]}, 404),
        ("receive-by-sequence-number", {"sequence-numbers": [1]}, 400),
        ("get-session-state", {"session-id": "s"}, 501),
        ("add-rule", {}, 501),
    ],
)
async def test_a_management_request_that_cannot_be_served_says_why(peer, operation, body, status):
    response = await peer.request(
        "invoices/$management", properties={"operation": f"com.microsoft:{operation}"}, body=body
    )
    assert response.properties["statusCode"] == status
    assert response.properties["errorCondition"]


async def test_dead_letters_cannot_be_sent_to(peer):
    condition = await peer.attached(peer.sender("invoices/$DeadLetterQueue"))
    assert condition.name == "amqp:not-allowed"


async def test_a_second_receiver_of_one_name_on_another_connection_serves_too(emulator, peer):
    sender, first = await linked(peer)
    async with peer_of(emulator) as other:
        second = other.receiver("invoices", first.name)
        assert await other.attached(second) is None
        await peer.send(sender, message())
        delivery, _ = await other.receive(second)
        assert await other.settle(delivery, proton.Delivery.ACCEPTED) == proton.Delivery.ACCEPTED


async def test_messages_dropped_with_their_link_wait_for_their_locks():
    queue = QueueConfig("invoices", lock_duration_s=0.2)
    async with ServiceBusEmulator(options_for(queue)) as running:
        async with peer_of(running) as gone:
            sender, receiver = await linked(gone)
            await gone.send(sender, message())
            await gone.receive(receiver)
        async with peer_of(running) as other:
            receiver = other.receiver("invoices")
            assert await other.attached(receiver) is None
            _, got = await other.receive(receiver)
            assert decoded(got).delivery_count == 1
