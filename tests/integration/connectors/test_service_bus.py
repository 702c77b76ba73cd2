"""What is particular to Service Bus: addresses, sizes, AMQP bodies, and a broker that goes away."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.amqp import AmqpAnnotatedMessage

from bpa.connectors import OutgoingMessage, SettlementLost
from bpa.connectors.service_bus import DeadLetterReader, ServiceBusPublisher, ServiceBusSource
from bpa.connectors.service_bus import link as link_module
from bpa.errors import InvalidRequest, NotFound, StartupError, Unavailable
from tests.eventually import eventually
from tests.integration.connectors.queues import QUEUE, Queue, emulator, open_queue

WRONG_ADDRESSES = [
    "",
    "nonsense",
    "Endpoint=sb://localhost;SharedAccessKeyName=Root",
    "Endpoint=;SharedAccessKeyName=Root;SharedAccessKey=s3cret",
]


@pytest.mark.parametrize("address", WRONG_ADDRESSES)
async def test_a_connection_string_that_cannot_be_read_stops_the_start(address):
    for connector in (ServiceBusSource(address, QUEUE), ServiceBusPublisher(address, QUEUE)):
        with pytest.raises(StartupError) as refused:
            await connector.open()
        assert "s3cret" not in str(refused.value)
        assert "\n" not in str(refused.value)


async def test_an_unknown_queue_is_named():
    async with emulator() as broker:
        address = broker.connection_string
        with pytest.raises(NotFound, match="nowhere"):
            await ServiceBusSource(address, "nowhere").open()
        with pytest.raises(NotFound, match="nowhere"):
            await ServiceBusPublisher(address, "nowhere").open()
        with pytest.raises(NotFound, match="nowhere"):
            await DeadLetterReader(address, "nowhere").peek(1)


async def test_nobody_listening_is_unavailable(unused_tcp_port):
    async with emulator(port=unused_tcp_port) as broker:
        address = broker.connection_string
    with pytest.raises(Unavailable):
        await ServiceBusSource(address, QUEUE).open()
    with pytest.raises(Unavailable):
        await ServiceBusPublisher(address, QUEUE).open()
    with pytest.raises(Unavailable):
        await DeadLetterReader(address, QUEUE).peek(1)


async def test_many_messages_fill_several_batches_and_keep_their_order():
    async with open_queue(links=1, lock_duration_s=30) as queue:
        await queue.publish([OutgoingMessage(body=b"%d" % n + b" " * 300) for n in range(1500)])
        for n in range(1500):
            message = await queue.source.receive(5)
            assert message is not None
            assert int(message.body) == n
            await queue.source.complete(message)


async def test_credit_that_a_settlement_kept_from_being_withdrawn_is_withdrawn_after_it():
    async with open_queue(links=1, lock_duration_s=30) as queue:
        (link,) = queue.source._links
        broker = queue.emulator._broker.queues[QUEUE]
        await queue.publish([OutgoingMessage(body=b"first")])
        first = await queue.source.receive(5)
        assert first is not None
        receiving = asyncio.create_task(queue.source.receive(5))
        await eventually(lambda: broker._receivers.anyone_waits)
        link._urgent += 1  # as if the settlement below were waiting for its turn already
        receiving.cancel()
        await asyncio.wait({receiving})
        link._urgent -= 1
        await queue.source.complete(first)

        await queue.publish([OutgoingMessage(body=b"nobody asked")])

        assert (broker.counts().active, broker.counts().locked) == (1, 0)


async def test_a_message_that_a_slow_broker_sent_before_it_heard_of_a_cancel_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(link_module, "SOCKET_POLL_S", 0.001)  # after two of them it was given up
    async with open_queue(links=1, lock_duration_s=30) as queue:
        broker = queue.emulator._broker.queues[QUEUE]
        receiving = asyncio.create_task(queue.source.receive(5))
        await eventually(lambda: broker._receivers.anyone_waits)
        (consumer,) = broker._receivers._waiting
        unheard: list[bytes] = []
        hears, consumer._owner.data_received = consumer._owner.data_received, unheard.append

        receiving.cancel()
        await eventually(lambda: unheard)
        await queue.publish([OutgoingMessage(body=b"nobody asked")])
        await eventually(lambda: broker.counts().locked)
        consumer._owner.data_received = hears
        for data in unheard:
            hears(data)
        await asyncio.wait({receiving})

        await eventually(lambda: broker.tally.settled["released"], within_s=5)
        assert (broker.counts().active, broker.counts().locked) == (1, 0)


def freeze(queue: Queue, when: Callable[[], object] = lambda: True) -> None:
    """Have the broker hear nothing more, from a moment on."""

    def hear(hears: Callable[[bytes], None], data: bytes) -> None:
        if not when():
            hears(data)

    for connection in queue.emulator._connections:
        connection.data_received = partial(hear, connection.data_received)


def hang_up(queue: Queue) -> None:
    for connection in [*queue.emulator._connections]:
        connection.abort()


async def test_a_broker_that_goes_while_credit_is_withdrawn_fails_no_receive():
    async with open_queue(links=1) as queue:
        (link,) = queue.source._links
        await queue.source.receive(0.01)
        freeze(queue)
        receiving = asyncio.create_task(queue.source.receive(0.1))
        await eventually(lambda: link._credit_is_out and link._waiting and not link._gate.wanted)
        hang_up(queue)
        assert await receiving is None
        assert await queue.source.receive(0.01) is None, "it has connected again"


async def test_a_broker_that_goes_while_credit_is_withdrawn_fails_no_settlement():
    async with open_queue(links=1) as queue:
        await queue.publish([OutgoingMessage(body=b"a")])
        message = await queue.source.receive(5)
        assert message is not None
        (link,) = queue.source._links
        link._credit_is_out = True  # as a withdrawal leaves it that a settlement interrupted
        await link._current.handler._handler._link.flow(link_credit=1)
        tally = queue.emulator._broker.queues[QUEUE].tally
        freeze(queue, lambda: tally.settled["completed"])
        completing = asyncio.create_task(queue.source.complete(message))
        await eventually(lambda: tally.settled["completed"] and link._waiting and not link._urgent)
        hang_up(queue)
        await completing


async def test_the_largest_message_passes_and_a_larger_one_is_refused():
    async with open_queue(links=1) as queue:
        with pytest.raises(InvalidRequest):
            await queue.publish([OutgoingMessage(body=b"x" * 300_000)])
        await queue.publish([OutgoingMessage(body=b"y" * 250_000), OutgoingMessage(body=b"z")])
        bodies = []
        for _ in range(2):
            message = await queue.source.receive(5)
            assert message is not None
            bodies.append(message.body)
            await queue.source.complete(message)
        assert bodies == [b"y" * 250_000, b"z"]


@pytest.mark.parametrize(
    "sections", [{"value_body": {"total": 1}}, {"sequence_body": [[1, 2], ["a"]]}]
)
async def test_a_body_that_is_no_bytes_arrives_as_undecodable_and_can_be_dead_lettered(sections):
    async with open_queue(links=1) as queue:
        client = ServiceBusClient.from_connection_string(queue.emulator.connection_string)
        async with client, client.get_queue_sender(QUEUE) as sender:
            await sender.send_messages(AmqpAnnotatedMessage(**sections))
        message = await queue.source.receive(5)
        assert message is not None
        assert message.undecodable is not None
        await queue.source.dead_letter(message, "DeserializationError", message.undecodable)
        (letter,) = await queue.reader.peek(10)
        assert letter.reason == "DeserializationError"


async def test_a_message_without_any_properties_arrives():
    async with open_queue(links=1) as queue:
        client = ServiceBusClient.from_connection_string(queue.emulator.connection_string)
        async with client, client.get_queue_sender(QUEUE) as sender:
            await sender.send_messages(ServiceBusMessage(b"bare"))
        message = await queue.source.receive(5)
        assert message is not None
        assert (message.body, message.content_type, dict(message.properties)) == (b"bare", None, {})
        await queue.source.complete(message)


async def test_dead_letters_are_read_in_pages_and_stay():
    async with open_queue() as queue:
        await queue.publish([OutgoingMessage(body=b"%d" % n) for n in range(5)])
        for n in range(5):
            message = await queue.source.receive(5)
            assert message is not None
            await queue.source.dead_letter(message, "AgentError", f"number {n}")
        first = await queue.reader.peek(3)
        assert [letter.description for letter in first] == ["number 0", "number 1", "number 2"]
        rest = await queue.reader.peek(
            10, from_sequence_number=first[-1].message.sequence_number + 1
        )
        assert [letter.message.body for letter in rest] == [b"3", b"4"]
        assert len(await queue.reader.peek(10)) == 5


@pytest.mark.parametrize("abruptly", [False, True], ids=["with goodbye", "cut off"])
async def test_a_broker_that_comes_back_redelivers_and_is_found_again(
    tmp_path: Path, unused_tcp_port: int, *, abruptly: bool
):
    first = emulator(port=unused_tcp_port, data_dir=tmp_path, lock_duration_s=30)
    await first.start()
    source = ServiceBusSource(first.connection_string, QUEUE, links=2)
    try:
        await source.open()
        async with ServiceBusPublisher(first.connection_string, QUEUE) as publisher:
            await publisher.send([OutgoingMessage(body=b"held")])
            held = await source.receive(5)
            assert held is not None
            waiting = asyncio.create_task(source.receive(30))
            assert await source.receive(0.1) is None  # the other one waits at the broker now
            if abruptly:
                for connection in list(first._connections):
                    connection.abort()
            await first.aclose()
            with pytest.raises(Unavailable):
                await source.receive(0.5)
            async with emulator(port=unused_tcp_port, data_dir=tmp_path, lock_duration_s=30):
                again = await waiting
                assert again is not None
                assert (again.body, again.sequence_number) == (b"held", held.sequence_number)
                with pytest.raises(SettlementLost):
                    await source.complete(held)
                await source.complete(again)
                await _sent(publisher, b"after")
                after = await source.receive(10)
                assert after is not None
                assert after.body == b"after"
                await source.complete(after)
                await source.aclose()
    finally:
        await source.aclose()
        await first.aclose()


async def test_a_settlement_on_a_dead_connection_is_lost_and_not_hanging():
    async with open_queue(links=1, lock_duration_s=30) as queue:
        await queue.publish([OutgoingMessage(body=b"x")])
        message = await queue.source.receive(5)
        assert message is not None
        for connection in list(queue.emulator._connections):
            connection.abort()
        with pytest.raises(SettlementLost):
            await queue.source.complete(message)


async def test_closing_ends_a_receive_that_waits():
    async with open_queue(links=1) as queue, asyncio.timeout(10):
        waiting = asyncio.create_task(queue.source.receive(60))
        assert await queue.source.receive(0.1) is None  # waits for its turn, so the other one waits
        await queue.source.aclose()
        assert await waiting is None


async def _sent(publisher: ServiceBusPublisher, body: bytes) -> None:
    """Send over a connection that may have died unnoticed; the first send notices."""
    try:
        await publisher.send([OutgoingMessage(body=body)])
    except Unavailable:
        await publisher.send([OutgoingMessage(body=body)])
