"""Deferral: message-deferral in Microsoft's documentation."""

import pytest
from azure.servicebus import ServiceBusMessageState
from azure.servicebus.exceptions import MessageLockLostError, MessageNotFoundError, ServiceBusError

from bpa.embedded.service_bus import QueueConfig, connection, management
from tests.integration.embedded.conformance.sdk import (
    DEAD,
    DELETING,
    body_of,
    next_message,
    nothing_comes,
    running,
)


async def deferred(bus, receiver, *bodies):
    """Send and defer messages; their sequence numbers."""
    numbers = []
    for body in bodies:
        await bus.send(body)
        message = await next_message(receiver)
        await receiver.defer_message(message)
        numbers.append(message.sequence_number)
    return numbers


async def test_a_deferred_message_is_given_only_to_who_asks_for_its_number(kind):
    async with running(kind) as bus:
        receiver = await bus.receiver()
        (number,) = await deferred(bus, receiver, "later")
        assert await nothing_comes(receiver)
        (seen,) = await receiver.peek_messages(5, sequence_number=1)
        assert seen.state == ServiceBusMessageState.DEFERRED
        (message,) = await receiver.receive_deferred_messages(number)
        assert (body_of(message), message.sequence_number) == (b"later", number)
        assert (message.state, message.delivery_count) == (ServiceBusMessageState.DEFERRED, 1)
        assert message.lock_token is not None
        await receiver.complete_message(message)
        assert await receiver.peek_messages(5, sequence_number=1) == []


async def test_a_deferred_message_can_be_received_and_deleted(kind):
    async with running(kind) as bus:
        numbers = await deferred(bus, await bus.receiver(), "a", "b")
        deleting = await bus.receiver(receive_mode=DELETING)
        messages = await deleting.receive_deferred_messages(numbers)
        assert [body_of(message) for message in messages] == [b"a", b"b"]
        assert await deleting.peek_messages(5) == []
        with pytest.raises(MessageNotFoundError):
            await deleting.receive_deferred_messages(numbers)


async def test_a_number_that_is_not_deferred_is_not_found_and_locks_none(kind):
    async with running(kind) as bus:
        receiver = await bus.receiver()
        (number,) = await deferred(bus, receiver, "a")
        await bus.send("active")
        for wrong in (2, 99):
            with pytest.raises(MessageNotFoundError):
                await receiver.receive_deferred_messages([number, wrong])
        assert len(await receiver.receive_deferred_messages([number])) == 1
        with pytest.raises(MessageNotFoundError):
            await receiver.receive_deferred_messages([number])


async def test_an_abandoned_deferred_message_stays_deferred_and_is_counted(kind):
    async with running(kind) as bus:
        receiver = await bus.receiver()
        (number,) = await deferred(bus, receiver, "a")
        (message,) = await receiver.receive_deferred_messages(number)
        await receiver.abandon_message(message)
        assert await nothing_comes(receiver)
        (again,) = await receiver.receive_deferred_messages(number)
        assert again.delivery_count == 2


async def test_a_deferred_message_can_be_deferred_again(kind):
    async with running(kind) as bus:
        receiver = await bus.receiver()
        (number,) = await deferred(bus, receiver, "a")
        (message,) = await receiver.receive_deferred_messages(number)
        await receiver.defer_message(message)
        (again,) = await receiver.receive_deferred_messages(number)
        await receiver.complete_message(again)


async def test_a_deferred_message_can_be_dead_lettered(kind):
    async with running(kind) as bus:
        receiver = await bus.receiver()
        (number,) = await deferred(bus, receiver, "a")
        (message,) = await receiver.receive_deferred_messages(number)
        await receiver.dead_letter_message(message, reason="r", error_description="d")
        letter = await next_message(await bus.receiver(sub_queue=DEAD))
        assert (letter.dead_letter_reason, letter.state) == ("r", ServiceBusMessageState.ACTIVE)


async def test_the_lock_on_a_deferred_message_can_be_renewed(kind):
    async with running(kind) as bus:
        receiver = await bus.receiver()
        (number,) = await deferred(bus, receiver, "a")
        (message,) = await receiver.receive_deferred_messages(number)
        before = message.locked_until_utc
        assert await receiver.renew_message_lock(message) >= before


async def test_a_deferred_message_whose_lock_ends_stays_deferred_and_is_counted(kind, clock):
    async with running(kind, QueueConfig("invoices", lock_duration_s=60)) as bus:
        receiver = await bus.receiver()
        (number,) = await deferred(bus, receiver, "a")
        (message,) = await receiver.receive_deferred_messages(number)
        clock.pass_by(bus.emulator, 61)
        (again,) = await receiver.receive_deferred_messages(number)
        assert again.delivery_count == 2
        message._lock_expiry = None
        with pytest.raises((MessageLockLostError, ServiceBusError)):
            await receiver.renew_message_lock(message)


async def test_a_deferred_message_is_dead_lettered_after_the_last_delivery(kind):
    async with running(kind, QueueConfig("invoices", max_delivery_count=2)) as bus:
        receiver = await bus.receiver()
        (number,) = await deferred(bus, receiver, "a")
        (message,) = await receiver.receive_deferred_messages(number)
        await receiver.abandon_message(message)
        letter = await next_message(await bus.receiver(sub_queue=DEAD))
        assert letter.dead_letter_reason == "MaxDeliveryCountExceeded"


async def test_a_dead_letter_can_be_deferred(kind):
    async with running(kind) as bus:
        receiver, dead = await bus.receiver(), await bus.receiver(sub_queue=DEAD)
        await bus.send("a")
        await receiver.dead_letter_message(await next_message(receiver), reason="r")
        letter = await next_message(dead)
        await dead.defer_message(letter)
        assert await nothing_comes(dead)
        (again,) = await dead.receive_deferred_messages(letter.sequence_number)
        assert (again.dead_letter_reason, again.delivery_count) == ("r", 0)
        await dead.complete_message(again)
        assert await dead.peek_messages(5) == []


async def test_a_deferred_message_expires_only_when_it_is_asked_for(kind):
    queue = QueueConfig("invoices", default_ttl_s=0.4, dead_letter_on_expiration=True)
    async with running(kind, queue) as bus:
        receiver, dead = await bus.receiver(), await bus.receiver(sub_queue=DEAD)
        (number,) = await deferred(bus, receiver, "a")
        await bus.send("b")
        assert body_of(await next_message(dead)) == b"b"
        (seen,) = await receiver.peek_messages(5, sequence_number=1)
        assert seen.state == ServiceBusMessageState.DEFERRED
        with pytest.raises(MessageNotFoundError):
            await receiver.receive_deferred_messages(number)
        letter = await next_message(dead)
        assert (body_of(letter), letter.dead_letter_reason) == (b"a", "TTLExpiredException")


async def test_deferred_messages_survive_a_restart(kind, tmp_path):
    async with running(kind, data_dir=tmp_path) as bus:
        receiver = await bus.receiver()
        numbers = await deferred(bus, receiver, "free", "held", "done")
        _, done = await receiver.receive_deferred_messages(numbers[1:])
        await receiver.complete_message(done)
    async with running(kind, data_dir=tmp_path) as bus:
        receiver = await bus.receiver()
        assert await nothing_comes(receiver)
        messages = await receiver.receive_deferred_messages(numbers[:2])
        assert [(body_of(m), m.delivery_count) for m in messages] == [(b"free", 1), (b"held", 2)]


@pytest.mark.parametrize("mode", ["peeklock", DELETING])
async def test_more_than_one_response_holds_is_refused_and_stays(kind, mode, monkeypatch):
    assert management._DEFERRED_BYTES <= connection._UNREAD_BYTES
    monkeypatch.setattr(management, "_DEFERRED_BYTES", 5_000)
    async with running(kind) as bus:
        numbers = await deferred(bus, await bus.receiver(), b"x" * 4_000, b"y" * 4_000)
        receiver = await bus.receiver(receive_mode=mode)
        with pytest.raises(ServiceBusError, match="ask for fewer sequence numbers at a time"):
            await receiver.receive_deferred_messages(numbers)
        for number, body in zip(numbers, (b"x", b"y"), strict=True):
            (message,) = await receiver.receive_deferred_messages(number)
            assert body_of(message) == body * 4_000


async def test_one_message_is_given_however_large_it_is(kind, monkeypatch):
    monkeypatch.setattr(management, "_DEFERRED_BYTES", 1_000)
    async with running(kind) as bus:
        receiver = await bus.receiver()
        (number,) = await deferred(bus, receiver, b"x" * 4_000)
        (message,) = await receiver.receive_deferred_messages(number)
        assert body_of(message) == b"x" * 4_000
