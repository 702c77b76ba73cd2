"""Scheduled messages: message-sequencing in Microsoft's documentation."""

from datetime import UTC, datetime, timedelta

import proton
import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusMessageState
from azure.servicebus.exceptions import MessageNotFoundError

from bpa.embedded.service_bus import QueueConfig
from tests.eventually import eventually
from tests.integration.embedded.conformance.peer import peer_of
from tests.integration.embedded.conformance.sdk import (
    DEAD,
    body_of,
    next_message,
    nothing_comes,
    running,
)


def after(seconds):
    return datetime.now(UTC) + timedelta(seconds=seconds)


@pytest.mark.parametrize("way", ["schedule", "send"])
async def test_a_scheduled_message_is_not_received_before_its_time(kind, way):
    async with running(kind) as bus:
        sender, receiver = await bus.sender(), await bus.receiver()
        due = after(3600)
        if way == "schedule":
            assert await sender.schedule_messages(ServiceBusMessage("later"), due) == [1]
        else:
            await sender.send_messages(ServiceBusMessage("later", scheduled_enqueue_time_utc=due))
        assert await nothing_comes(receiver)
        (seen,) = await receiver.peek_messages(5)
        assert (body_of(seen), seen.state) == (b"later", ServiceBusMessageState.SCHEDULED)
        assert seen.sequence_number == 1
        assert abs(seen.scheduled_enqueue_time_utc - due) < timedelta(milliseconds=1)


async def test_a_scheduled_message_gets_a_new_number_and_time_when_it_is_due(kind, clock):
    async with running(kind) as bus:
        sender, receiver = await bus.sender(), await bus.receiver()
        due = after(60)
        numbers = await sender.schedule_messages(
            [ServiceBusMessage("a"), ServiceBusMessage("b")], due
        )
        assert numbers == [1, 2]
        await bus.send("at once")
        now = await next_message(receiver)
        assert body_of(now) == b"at once"
        await receiver.complete_message(now)
        clock.pass_by(bus.emulator, 61)
        for body, number in ((b"a", 4), (b"b", 5)):
            message = await next_message(receiver)
            assert (body_of(message), message.sequence_number) == (body, number)
            assert message.state == ServiceBusMessageState.ACTIVE
            assert message.enqueued_time_utc >= due - timedelta(milliseconds=1)
            assert message.enqueued_sequence_number == number


async def test_a_message_scheduled_for_the_past_is_active_at_once(kind):
    async with running(kind) as bus:
        sender, receiver = await bus.sender(), await bus.receiver()
        await sender.schedule_messages(ServiceBusMessage("late"), after(-60))
        assert body_of(await next_message(receiver)) == b"late"


async def test_a_cancelled_message_never_comes(kind, clock):
    async with running(kind) as bus:
        sender, receiver = await bus.sender(), await bus.receiver()
        messages = [ServiceBusMessage("a"), ServiceBusMessage("b")]
        first, second = await sender.schedule_messages(messages, after(60))
        await sender.cancel_scheduled_messages(first)
        clock.pass_by(bus.emulator, 61)
        assert body_of(await next_message(receiver)) == b"b"
        with pytest.raises(MessageNotFoundError):
            await sender.cancel_scheduled_messages(first)
        with pytest.raises(MessageNotFoundError):
            await sender.cancel_scheduled_messages(second)


async def test_a_cancellation_of_an_unknown_number_cancels_none_of_the_others(kind):
    async with running(kind) as bus:
        sender, receiver = await bus.sender(), await bus.receiver()
        (number,) = await sender.schedule_messages(ServiceBusMessage("a"), after(3600))
        with pytest.raises(MessageNotFoundError):
            await sender.cancel_scheduled_messages([number, 99])
        assert len(await receiver.peek_messages(5)) == 1


async def test_nothing_is_scheduled_or_cancelled_among_the_dead_letters(kind):
    async with running(kind) as bus:
        await bus.send("precious")
        receiver, dead = await bus.receiver(), await bus.receiver(sub_queue=DEAD)
        await receiver.dead_letter_message(await next_message(receiver))
        async with peer_of(bus.emulator) as peer:
            later = {proton.symbol("x-opt-scheduled-enqueue-time"): proton.timestamp(2**42)}
            intruder = proton.Message(id="i", annotations=later).encode()
            numbers = proton.Array(proton.UNDESCRIBED, proton.Data.LONG, 1)
            for operation, body in (
                ("schedule-message", {"messages": [{"message": intruder}]}),
                ("cancel-scheduled-message", {"sequence-numbers": numbers}),
            ):
                response = await peer.request(
                    "invoices/$deadletterqueue/$management",
                    properties={"operation": f"com.microsoft:{operation}"},
                    body=body,
                )
                assert response.properties["statusCode"] == 400
                assert response.properties["errorCondition"] == "amqp:not-allowed"
        (letter,) = await dead.peek_messages(5, sequence_number=1)
        assert (body_of(letter), letter.sequence_number) == (b"precious", 1)


async def test_the_time_to_live_of_a_scheduled_message_begins_when_it_is_due(kind, clock):
    async with running(kind, QueueConfig("invoices", default_ttl_s=30)) as bus:
        sender, receiver = await bus.sender(), await bus.receiver()
        await sender.schedule_messages(ServiceBusMessage("a"), after(60))
        clock.pass_by(bus.emulator, 61)
        assert body_of(await next_message(receiver)) == b"a"


async def test_scheduled_messages_survive_a_restart_and_come_in_their_time(kind, clock, tmp_path):
    async with running(kind, data_dir=tmp_path) as bus:
        sender = await bus.sender()
        first, *_ = await sender.schedule_messages(
            [ServiceBusMessage("cancelled"), ServiceBusMessage("due")], after(60)
        )
        await sender.schedule_messages(ServiceBusMessage("later"), after(3600))
        await sender.cancel_scheduled_messages(first)
    async with running(kind, data_dir=tmp_path) as bus:
        receiver = await bus.receiver()
        clock.pass_by(bus.emulator, 61)
        assert body_of(await next_message(receiver)) == b"due"
        assert await nothing_comes(receiver)

        async def both_are_seen():
            return [m.sequence_number for m in await receiver.peek_messages(5, sequence_number=1)]

        assert await eventually(both_are_seen) == [3, 4]
