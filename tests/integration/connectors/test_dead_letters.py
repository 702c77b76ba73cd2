"""Dead letters in the emulator: peeked whole, locked one among many, sent again as they were."""

import pytest
from azure.servicebus.amqp import AmqpAnnotatedMessage, AmqpMessageProperties

from bpa.connectors import OutgoingMessage, SettlementLost
from bpa.connectors.service_bus import DeadLetterLocks, DeadLetterReader, Rewrite, replayed
from bpa.connectors.service_bus import dead_letters as module
from bpa.connectors.service_bus.client import SOCKET_POLL_S, close, connect, opened
from bpa.errors import NotFound, Unavailable
from tests.integration.connectors.queues import QUEUE, Queue, emulator, open_queue


async def bury(queue: Queue, count: int = 1, reason: str = "AgentError") -> None:
    """Dead-letter what is sent here, bodies 0, 1, 2 and so on."""
    await queue.publish(
        [OutgoingMessage(body=b"%d" % n, message_id=f"m-{n}") for n in range(count)]
    )
    for _ in range(count):
        message = await queue.source.receive(10)
        assert message is not None
        await queue.source.dead_letter(message, reason, "what to do")


def locks(queue: Queue) -> DeadLetterLocks:
    return DeadLetterLocks(queue.emulator.connection_string, QUEUE)


def counts(queue: Queue) -> tuple[int, int]:
    """Active and locked dead letters, as the broker counts them."""
    found = queue.emulator._broker.queues[f"{QUEUE}/$deadletterqueue"].counts()
    return found.active, found.locked


async def test_a_peeked_dead_letter_comes_with_its_bytes():
    async with open_queue() as queue:
        await bury(queue)
        (letter,) = await queue.reader.peek(10)
        assert (letter.reason, letter.description) == ("AgentError", "what to do")
        assert letter.message.body in letter.encoded
        assert b"DeadLetterReason" in letter.encoded
        assert counts(queue) == (1, 0)


async def test_one_dead_letter_among_many_is_locked_and_completed_and_the_others_come_back():
    async with open_queue() as queue:
        await bury(queue, 30)
        wanted = {letter.message.sequence_number for letter in await queue.reader.peek(30)}
        wanted = {sorted(wanted)[12], sorted(wanted)[20]}
        async with locks(queue) as locked:
            first = await locked.next_of(wanted)
            assert first is not None
            assert first.body == b"12"
            await locked.complete(first)
            second = await locked.next_of(wanted - {first.sequence_number})
            assert second is not None
            assert counts(queue)[1] == 20, "those on the way are locked meanwhile"
            await locked.give_back(second)
        assert counts(queue) == (29, 0)
        bodies = [letter.message.body for letter in await queue.reader.peek(30)]
        assert b"12" not in bodies
        assert b"20" in bodies


async def test_what_is_gone_or_locked_by_somebody_else_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(module, "_ARRIVAL_WAIT_S", 0.3)
    async with open_queue(lock_duration_s=30) as queue:
        await bury(queue, 3)
        numbers = [letter.message.sequence_number for letter in await queue.reader.peek(3)]
        async with locks(queue) as locked, locks(queue) as other:
            assert await other.next_of({numbers[1]}) is not None
            assert await locked.next_of({numbers[1]}) is None
        assert counts(queue)[0] == 2
        async with locks(queue) as locked:
            assert await locked.next_of({10**6}) is None


async def test_locks_that_run_out_on_the_way_end_the_search(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_ARRIVAL_WAIT_S", 10.0)
    async with open_queue(lock_duration_s=1) as queue:
        await bury(queue, 2)
        async with locks(queue) as locked:
            assert await locked.next_of({10**6}) is None
        assert sum(counts(queue)) == 2


async def test_no_more_than_the_bound_is_locked_on_the_way(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "HELD_AT_MOST", 2)
    async with open_queue(lock_duration_s=30) as queue:
        await bury(queue, 5)
        last = (await queue.reader.peek(5))[-1].message.sequence_number
        async with locks(queue) as locked:
            assert await locked.next_of({last}) is None
            assert counts(queue) == (3, 2)
        assert counts(queue) == (5, 0)


async def test_a_lock_that_ran_out_cannot_be_completed():
    async with open_queue(lock_duration_s=1) as queue:
        await bury(queue)
        (letter,) = await queue.reader.peek(1)
        async with locks(queue) as locked, locks(queue) as later:
            wanted = {letter.message.sequence_number}
            message = await locked.next_of(wanted)
            assert message is not None
            assert await later.next_of(wanted) is not None
            with pytest.raises(SettlementLost):
                await locked.complete(message)


async def test_an_unknown_queue_is_named():
    async with emulator() as broker:
        with pytest.raises(NotFound, match="nowhere"):
            await DeadLetterLocks(broker.connection_string, "nowhere").__aenter__()


async def test_nobody_listening_is_unavailable(unused_tcp_port: int):
    async with emulator(port=unused_tcp_port) as broker:
        address = broker.connection_string
    with pytest.raises(Unavailable):
        await DeadLetterLocks(address, QUEUE).__aenter__()
    with pytest.raises(Unavailable):
        await DeadLetterReader(address, QUEUE).peek(1)


async def test_an_encoded_message_is_published_as_it_stands():
    async with open_queue() as queue:
        original = AmqpAnnotatedMessage(
            value_body={"nested": [1, "two", b"\x00"]},
            properties=AmqpMessageProperties(correlation_id="c-1", content_type="text/plain"),
            application_properties={"tenant": "acme"},
        )
        sender = connect(queue.emulator.connection_string).get_queue_sender(
            QUEUE, socket_timeout=SOCKET_POLL_S
        )
        open_sender = await opened(sender, QUEUE)
        await sender.send_messages(original)
        await close(open_sender)
        message = await queue.source.receive(10)
        assert message is not None
        await queue.source.dead_letter(message, "DeserializationError", "")
        (letter,) = await queue.reader.peek(1)

        rewrite = Rewrite(message_id="new", properties={"x-replayed": True, "x-replay-count": 1})
        await queue.publisher.send_encoded(replayed(letter.encoded, rewrite))

        again = await queue.source.receive(10)
        assert again is not None
        assert again.message_id == "new"
        assert again.undecodable == message.undecodable
        assert again.properties == {"tenant": "acme", "x-replayed": True, "x-replay-count": 1}
        raw = again.receipt.received.raw_amqp_message
        assert raw.body == {b"nested": [1, b"two", b"\x00"]}
        assert raw.properties.correlation_id == b"c-1"
        await queue.source.complete(again)
