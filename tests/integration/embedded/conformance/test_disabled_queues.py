"""Suspended queues: entity-suspend in Microsoft's documentation."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.exceptions import MessagingEntityDisabledError

from bpa.embedded.service_bus.config import Status
from tests.integration.embedded.conformance.sdk import DEAD, body_of, next_message, running


def suspend(bus, status):
    for path in ("invoices", "invoices/$deadletterqueue"):
        queue = bus.emulator._broker.find(path)
        queue.reconfigure(replace(queue.config, status=status))


async def send_over_a_new_link(bus):
    await (await bus.sender()).send_messages(ServiceBusMessage("x"))


async def receive_over_a_new_link(bus, sub_queue):
    await next_message(await bus.receiver(sub_queue=sub_queue))


@pytest.mark.parametrize("status", [Status.DISABLED, Status.SEND_DISABLED])
async def test_nothing_can_be_sent_while_sending_is_disabled(kind, status):
    async with running(kind) as bus:
        await bus.send("before")
        suspend(bus, status)
        with pytest.raises(MessagingEntityDisabledError, match="Sending to queue"):
            await bus.send("open link")
        with pytest.raises(MessagingEntityDisabledError):
            await send_over_a_new_link(bus)
        suspend(bus, Status.ACTIVE)
        await bus.send("after")
        receiver = await bus.receiver()
        bodies = [body_of(await next_message(receiver)) for _ in range(2)]
        assert bodies == [b"before", b"after"]


async def test_nothing_can_be_scheduled_or_cancelled_while_sending_is_disabled(kind):
    due = datetime.now(UTC) + timedelta(hours=1)
    async with running(kind) as bus:
        sender = await bus.sender()
        numbers = await sender.schedule_messages(ServiceBusMessage("x"), due)
        suspend(bus, Status.SEND_DISABLED)
        with pytest.raises(MessagingEntityDisabledError):
            await sender.schedule_messages(ServiceBusMessage("y"), due)
        with pytest.raises(MessagingEntityDisabledError):
            await sender.cancel_scheduled_messages(numbers)


@pytest.mark.parametrize("status", [Status.DISABLED, Status.RECEIVE_DISABLED])
@pytest.mark.parametrize("sub_queue", [None, DEAD])
async def test_nothing_can_be_received_while_receiving_is_disabled(kind, status, sub_queue):
    async with running(kind) as bus:
        waiting = await bus.receiver(sub_queue=sub_queue, prefetch_count=1)
        suspend(bus, status)
        with pytest.raises(MessagingEntityDisabledError, match="Receiving from queue"):
            await waiting.receive_messages(1, max_wait_time=10)
        with pytest.raises(MessagingEntityDisabledError):
            await receive_over_a_new_link(bus, sub_queue)


async def test_sending_goes_on_while_receiving_is_disabled(kind):
    async with running(kind) as bus:
        suspend(bus, Status.RECEIVE_DISABLED)
        await bus.send("kept")
        suspend(bus, Status.ACTIVE)
        assert body_of(await next_message(await bus.receiver())) == b"kept"


async def test_receiving_goes_on_while_sending_is_disabled(kind):
    async with running(kind) as bus:
        await bus.send("a")
        suspend(bus, Status.SEND_DISABLED)
        receiver = await bus.receiver()
        await receiver.complete_message(await next_message(receiver))


async def test_settling_is_refused_while_receiving_is_disabled_and_the_lock_is_kept(kind):
    async with running(kind) as bus:
        await bus.send("a")
        receiver = await bus.receiver()
        message = await next_message(receiver)
        suspend(bus, Status.RECEIVE_DISABLED)
        settle = receiver._settle_message_via_mgmt_link
        with pytest.raises(MessagingEntityDisabledError):
            await settle("completed", [message.lock_token])
        suspend(bus, Status.ACTIVE)
        await settle("completed", [message.lock_token])
