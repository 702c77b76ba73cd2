"""The Service Bus emulator, as the real SDK sees it: sending, receiving, settling, locks."""

import asyncio
import uuid
from datetime import timedelta

import pytest
from azure.servicebus import ServiceBusClient as BlockingClient
from azure.servicebus import (
    ServiceBusMessage,
    ServiceBusReceiveMode,
    ServiceBusSubQueue,
)
from azure.servicebus._pyamqp.error import MessageException
from azure.servicebus.exceptions import MessageLockLostError, ServiceBusError

from bpa.embedded.service_bus import PREMIUM, QueueConfig
from tests.eventually import eventually
from tests.integration.embedded.service_bus import (
    body_of,
    bus,
    client_of,
    impatient,
    is_empty,
    receive_one,
    settled,
)

DEAD = ServiceBusSubQueue.DEAD_LETTER


@pytest.fixture(params=["memory", "durable"])
def kept(request, tmp_path):
    """Options for both ways of keeping messages."""
    return {"data_dir": tmp_path / "data"} if request.param == "durable" else {}


async def test_a_message_is_received_as_it_was_sent(kept):
    sent = ServiceBusMessage(
        b"\x00\xffbytes",
        application_properties={"traceparent": "00-ab", "n": 7, "yes": True},
        content_type="application/xml",
        correlation_id="c-1",
        message_id="m-1",
        subject="s",
        session_id="not-a-session-here",
        partition_key="not-a-session-here",
        to="t",
        reply_to="r",
        time_to_live=timedelta(hours=2),
    )
    async with bus(**kept) as one, one.sender() as sender:
        await sender.send_messages(sent)
        async with one.receiver() as receiver:
            message = await receive_one(receiver)
            lock_s = (message.locked_until_utc - message.enqueued_time_utc).total_seconds()
            await receiver.complete_message(message)
    assert body_of(message) == b"\x00\xffbytes"
    assert message.application_properties == {b"traceparent": b"00-ab", b"n": 7, b"yes": True}
    assert message.content_type == "application/xml"
    assert (message.correlation_id, message.message_id) == ("c-1", "m-1")
    assert (message.subject, message.to, message.reply_to) == ("s", "t", "r")
    assert message.partition_key == "not-a-session-here"
    assert message.time_to_live == timedelta(hours=2)
    assert (message.sequence_number, message.delivery_count) == (1, 0)
    assert message.enqueued_sequence_number == 1
    assert 60 <= lock_s < 65


async def test_a_completed_message_is_gone(kept):
    async with bus(**kept) as one:
        await one.send("a")
        assert await one.counts() == (1, 0, 0)
        async with one.receiver() as receiver:
            message = await receive_one(receiver)
            assert await one.counts() == (0, 1, 0)
            await receiver.complete_message(message)
            assert await one.counts() == (0, 0, 0)


async def test_messages_come_in_the_order_they_were_sent():
    async with bus() as one, one.receiver() as receiver:
        await one.send(*(str(n) for n in range(20)))
        for n in range(20):
            message = await receive_one(receiver)
            assert (body_of(message), message.sequence_number) == (str(n).encode(), n + 1)
            await receiver.complete_message(message)


async def test_a_batch_becomes_as_many_messages_as_it_holds(kept):
    async with bus(**kept) as one, one.sender() as sender, one.receiver() as receiver:
        batch = await sender.create_message_batch()
        for n in range(3):
            batch.add_message(ServiceBusMessage(f"b{n}", message_id=f"id{n}"))
        await sender.send_messages(batch)
        await sender.send_messages([ServiceBusMessage("alone")])
        await sender.send_messages(ServiceBusMessage("single"))
        bodies = [body_of(await receive_one(receiver)) for _ in range(5)]
        assert bodies == [b"b0", b"b1", b"b2", b"alone", b"single"]


async def test_a_batch_larger_than_a_frame_becomes_as_many_messages_as_it_holds():
    async with bus(tier=PREMIUM) as one, one.sender() as sender:
        await sender.send_messages([ServiceBusMessage(bytes([n]) * 100_000) for n in range(6)])
        async with one.receiver() as receiver:
            for n in range(6):
                assert body_of(await receive_one(receiver)) == bytes([n]) * 100_000


async def test_a_message_that_holds_an_encoded_message_is_no_batch():
    async with bus() as one, one.receiver() as receiver:
        payload = b"\x00\x53\x75\xa0\x05inner\x80\x01\x37\x00"
        await one.send(payload)
        assert body_of(await receive_one(receiver)) == payload


async def test_a_message_of_the_largest_size_passes_and_one_above_is_refused():
    async with bus() as one, one.sender() as sender, one.receiver() as receiver:
        await sender.send_messages(ServiceBusMessage(b"x" * 262_000))
        assert len(body_of(await receive_one(receiver))) == 262_000
        with pytest.raises(ServiceBusError, match=r"larger|exceed"):
            await sender.send_messages(ServiceBusMessage(b"x" * 262_144))
        await sender.send_messages(ServiceBusMessage(b"after"))
        assert body_of(await receive_one(receiver)) == b"after"


async def test_two_receivers_never_hold_the_same_message():
    async with bus() as one, one.receiver() as first, one.receiver() as second:
        await one.send(*(str(n) for n in range(10)))
        held = [await receive_one(receiver) for _ in range(5) for receiver in (first, second)]
        assert len({message.sequence_number for message in held}) == 10
        assert await one.counts() == (0, 10, 0)


async def test_a_waiting_receiver_gets_a_message_as_soon_as_it_is_sent(kept):
    async with bus(**kept) as one, one.receiver() as receiver:
        waiting = asyncio.ensure_future(receiver.receive_messages(1, max_wait_time=10))
        assert await one.counts() == (0, 0, 0)
        await one.send("now")
        assert body_of((await waiting)[0]) == b"now"


async def test_receive_and_delete_removes_on_receipt(kept):
    async with bus(**kept) as one:
        await one.send("a", "b")
        async with one.receiver(receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE) as receiver:
            assert body_of(await receive_one(receiver)) == b"a"
            assert body_of(await receive_one(receiver)) == b"b"
            assert await one.counts() == (0, 0, 0)


async def test_an_abandoned_message_comes_back_first_and_is_counted():
    async with bus() as one, one.receiver() as receiver:
        await one.send("a", "b")
        first = await receive_one(receiver)
        await receiver.abandon_message(first)
        again = await receive_one(receiver)
        assert (again.sequence_number, again.delivery_count) == (1, 1)
        assert again.lock_token != first.lock_token


async def test_after_the_last_delivery_the_broker_dead_letters_with_its_reason(kept):
    async with bus(impatient(lock_duration_s=60), **kept) as one, one.receiver() as receiver:
        await one.send("poison", message_id="p")
        for count in range(3):
            message = await receive_one(receiver)
            assert message.delivery_count == count
            await receiver.abandon_message(message)
        assert await is_empty(receiver)
        async with one.receiver(sub_queue=DEAD) as dead:
            letter = await receive_one(dead)
        assert (letter.sequence_number, letter.delivery_count, letter.message_id) == (1, 3, "p")
        assert letter.dead_letter_reason == "MaxDeliveryCountExceeded"
        assert letter.dead_letter_error_description == (
            "Message could not be consumed after 3 delivery attempts."
        )


async def test_a_dead_letter_keeps_its_reason_description_and_properties(kept):
    async with bus(**kept) as one, one.receiver() as receiver:
        await one.send("bad", application_properties={"k": "v"}, message_id="m")
        message = await receive_one(receiver)
        await receiver.dead_letter_message(message, reason="Why", error_description="é" * 300)
        assert await one.counts() == (0, 0, 1)
        async with one.receiver(sub_queue=DEAD) as dead:
            letter = await receive_one(dead)
            await dead.complete_message(letter)
        assert await one.counts() == (0, 0, 0)
    assert (letter.dead_letter_reason, letter.dead_letter_error_description) == ("Why", "é" * 300)
    assert letter.application_properties[b"k"] == b"v"
    assert (body_of(letter), letter.message_id) == (b"bad", "m")
    assert (letter.sequence_number, letter.delivery_count) == (1, 0)


async def test_abandoning_a_dead_letter_neither_counts_nor_loses_it():
    async with bus(impatient(max_delivery_count=1, lock_duration_s=60)) as one:
        await one.send("bad")
        async with one.receiver() as receiver:
            await receiver.abandon_message(await receive_one(receiver))
        async with one.receiver(sub_queue=DEAD) as dead:
            for _ in range(3):
                letter = await receive_one(dead)
                assert letter.delivery_count == 1
                await dead.abandon_message(letter)
            await receive_one(dead)


async def test_dead_lettering_a_dead_letter_is_an_error():
    async with bus() as one, one.receiver() as receiver:
        await one.send("bad")
        await receiver.dead_letter_message(await receive_one(receiver), reason="r")
        async with one.receiver(sub_queue=DEAD) as dead:
            letter = await receive_one(dead)
            with pytest.raises(MessageException, match="cannot be dead-lettered again"):
                await settled(dead, letter, "dead-letter", dead_letter_reason="again")
        assert await one.counts() == (0, 0, 1)


async def test_a_lock_that_ends_gives_the_message_back_and_counts():
    async with bus(impatient()) as one, one.receiver() as receiver:
        await one.send("slow")
        await receive_one(receiver)
        again = await receive_one(receiver)
        assert again.delivery_count == 1
        await receiver.complete_message(again)


async def test_settling_after_the_lock_ended_is_message_lock_lost():
    async with bus(impatient()) as one, one.receiver() as receiver:
        await one.send("slow")
        message = await receive_one(receiver)
        await eventually(lambda: one_active(one))
        for operation in ("complete", "abandon", "dead-letter"):
            with pytest.raises(MessageLockLostError):
                await receiver._settle_message_via_mgmt_link(
                    {"complete": "completed", "abandon": "abandoned", "dead-letter": "suspended"}[
                        operation
                    ],
                    [message.lock_token],
                )
        with pytest.raises(MessageException, match="message-lock-lost"):
            await settled(receiver, message, "complete")


async def one_active(one):
    return await one.counts() == (1, 0, 0)


async def test_a_renewed_lock_outlives_its_first_term(clock):
    async with bus(impatient(lock_duration_s=60)) as one, one.receiver() as receiver:
        await one.send("long")
        message = await receive_one(receiver)
        first_end = message.locked_until_utc
        for _ in range(4):
            before = message.locked_until_utc
            clock.pass_by(one.emulator, 40)
            assert await receiver.renew_message_lock(message) > before
        assert message.locked_until_utc > first_end + timedelta(seconds=60)
        await receiver.complete_message(message)
        assert await one.counts() == (0, 0, 0)


async def test_renewing_an_unknown_lock_is_message_lock_lost():
    async with bus() as one, one.receiver() as receiver:
        await one.send("a")
        message = await receive_one(receiver)
        await receiver.complete_message(message)
        with pytest.raises(MessageLockLostError):
            await receiver._renew_locks(uuid.uuid4())


async def test_the_locks_of_a_dropped_link_stay_until_they_end(clock):
    async with bus(impatient(lock_duration_s=60)) as one:
        await one.send("held")
        async with client_of(one.emulator.connection_string) as client:
            gone = client.get_queue_receiver("invoices")
            await receive_one(gone)
            await gone.close()
        assert await one.counts() == (0, 1, 0)
        clock.pass_by(one.emulator, 61)
        async with one.receiver() as receiver:
            again = await receive_one(receiver)
            assert again.delivery_count == 1
            await receiver.complete_message(again)


async def test_what_was_prefetched_is_released_on_close_without_a_count():
    async with bus() as one:
        await one.send("a", "b", "c")
        receiver = one.receiver(prefetch_count=10)
        await receiver.complete_message(await receive_one(receiver))
        await eventually(lambda: two_locked(one))
        await receiver.close()
        assert await one.counts() == (2, 0, 0)
        async with one.receiver() as receiver:
            again = await receive_one(receiver)
            assert (body_of(again), again.delivery_count) == (b"b", 0)


async def two_locked(one):
    return await one.counts() == (0, 2, 0)


async def test_settling_over_the_management_link_does_the_same(kept):
    async with bus(**kept) as one, one.receiver() as receiver:
        await one.send("a", "b", "c")
        a, b, c = [await receive_one(receiver) for _ in range(3)]
        settle = receiver._settle_message_via_mgmt_link
        await settle("completed", [a.lock_token])
        reason = {"deadletter-reason": "r", "deadletter-description": "d"}
        await settle("suspended", [b.lock_token], dead_letter_details=reason)
        await settle("abandoned", [c.lock_token])
        assert await one.counts() == (1, 0, 1)
        async with one.receiver(sub_queue=DEAD) as dead:
            letter = await receive_one(dead)
        assert (letter.dead_letter_reason, letter.dead_letter_error_description) == ("r", "d")


async def test_peek_shows_active_and_locked_messages_in_order_and_changes_nothing():
    async with bus() as one, one.receiver() as receiver:
        assert await receiver.peek_messages(5) == []
        await one.send("a", "b", "c")
        held = await receive_one(receiver)
        seen = await receiver.peek_messages(10, sequence_number=1)
        assert [body_of(message) for message in seen] == [b"a", b"b", b"c"]
        again = await receiver.peek_messages(2, sequence_number=2)
        assert [message.sequence_number for message in again] == [2, 3]
        await receiver.complete_message(held)
        assert await one.counts() == (2, 0, 0)
        higher = await receiver.peek_messages(1, sequence_number=1)
        assert [message.sequence_number for message in higher] == [2]


async def test_dead_letters_can_be_peeked_with_their_reason():
    async with bus() as one, one.receiver() as receiver:
        await one.send("bad")
        await receiver.dead_letter_message(await receive_one(receiver), reason="r")
        async with one.receiver(sub_queue=DEAD) as dead:
            (letter,) = await dead.peek_messages(5)
            assert (letter.dead_letter_reason, letter.sequence_number) == ("r", 1)
        assert await one.counts() == (0, 0, 1)


async def test_a_message_past_its_time_to_live_is_dropped():
    async with bus() as one, one.receiver() as receiver:
        await one.send("brief", time_to_live=timedelta(seconds=1))
        assert await one.counts() == (1, 0, 0)
        await one.send("lasting")
        await eventually(lambda: one_active(one))
        assert body_of(await receive_one(receiver)) == b"lasting"


async def test_a_queue_that_says_so_dead_letters_what_expires():
    queue = QueueConfig("invoices", default_ttl_s=0.1, dead_letter_on_expiration=True)
    async with bus(queue) as one, one.receiver(sub_queue=DEAD) as dead:
        await one.send("brief")
        letter = await receive_one(dead)
        assert letter.dead_letter_reason == "TTLExpiredException"
        assert letter.dead_letter_error_description == "The message expired and was dead lettered."


async def test_a_message_without_an_id_is_given_one():
    async with bus() as one, one.receiver() as receiver:
        message = ServiceBusMessage("x")
        message.raw_amqp_message.properties.message_id = None
        async with one.sender() as sender:
            await sender.send_messages(message)
        received = await receive_one(receiver)
        assert len(uuid.UUID(received.message_id).hex) == 32


async def test_queue_names_compare_without_case():
    async with bus(QueueConfig("Invoices.Test")) as one:
        await one.send("a", queue="invoices.TEST")
        async with one.receiver("INVOICES.test") as receiver:
            assert body_of(await receive_one(receiver)) == b"a"


def test_the_blocking_client_sends_receives_and_completes():
    async def serve(started, stop):
        async with bus() as one:
            started.set_result(one.emulator.connection_string)
            await stop.wait()
            return await one.counts()

    def use(connection_string):
        with BlockingClient.from_connection_string(connection_string) as client:
            with client.get_queue_sender("invoices") as sender:
                sender.send_messages([ServiceBusMessage("a"), ServiceBusMessage("b")])
            with client.get_queue_receiver("invoices", socket_timeout=0.01) as receiver:
                bodies = []
                for _ in range(2):
                    (message,) = receiver.receive_messages(1, max_wait_time=5)
                    bodies.append(body_of(message))
                    receiver.renew_message_lock(message)
                    receiver.complete_message(message)
                return bodies

    async def both():
        started, stop = asyncio.get_running_loop().create_future(), asyncio.Event()
        serving = asyncio.create_task(serve(started, stop))
        bodies = await asyncio.to_thread(use, await started)
        stop.set()
        return bodies, await serving

    assert asyncio.run(both()) == ([b"a", b"b"], (0, 0, 0))
