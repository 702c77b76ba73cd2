"""Suspended queues: entity-suspend in Microsoft's documentation."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import proton
import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.exceptions import MessagingEntityDisabledError

from bpa.embedded.service_bus.config import Status
from tests.eventually import eventually
from tests.integration.embedded.conformance.peer import peer_of, tag_of
from tests.integration.embedded.conformance.sdk import DEAD, body_of, next_message, running
from tests.integration.embedded.javascript import run_node
from tests.integration.embedded.service_bus import bus


def suspend(bus, status):
    for path in ("invoices", "invoices/$deadletterqueue"):
        queue = bus.emulator._broker.find(path)
        queue.reconfigure(replace(queue.config, status=status))


async def suspended(emulator, status):
    config = emulator._broker.entity("invoices").config
    await emulator._broker.update(replace(config, status=status))


async def ask(peer, operation, body):
    properties = {"operation": f"com.microsoft:{operation}"}
    return await peer.request("invoices/$management", properties=properties, body=body)


def later():
    return datetime.now(UTC) + timedelta(hours=1)


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


@pytest.mark.parametrize("status", [Status.DISABLED, Status.SEND_DISABLED])
async def test_nothing_can_be_scheduled_while_sending_is_disabled(kind, status):
    async with running(kind) as bus:
        sender = await bus.sender()
        suspend(bus, status)
        with pytest.raises(MessagingEntityDisabledError, match="Sending to queue"):
            await sender.schedule_messages(ServiceBusMessage("x"), later())


async def test_what_is_scheduled_can_be_cancelled_while_only_sending_is_disabled(kind):
    async with running(kind) as bus:
        sender = await bus.sender()
        numbers = await sender.schedule_messages([ServiceBusMessage("x")] * 2, later())
        suspend(bus, Status.SEND_DISABLED)
        await sender.cancel_scheduled_messages(numbers[0])
        receiver = await bus.receiver()
        assert [m.sequence_number for m in await receiver.peek_messages(5)] == numbers[1:]
        suspend(bus, Status.DISABLED)
        with pytest.raises(MessagingEntityDisabledError, match="is disabled"):
            await sender.cancel_scheduled_messages(numbers[1])


@pytest.mark.parametrize("status", list(Status))
async def test_browsing_goes_on_whatever_the_status(status):
    async with bus() as one, peer_of(one.emulator) as peer:
        await one.send("a")
        await suspended(one.emulator, status)
        answer = await ask(peer, "peek-message", {"from-sequence-number": 1, "message-count": 5})
        assert answer.properties["statusCode"] == 200
        assert len(answer.body["messages"]) == 1


@pytest.mark.parametrize("status", [Status.DISABLED, Status.RECEIVE_DISABLED])
async def test_no_deferred_message_can_be_received_while_receiving_is_disabled(kind, status):
    async with running(kind) as bus:
        await bus.send("a")
        receiver = await bus.receiver()
        message = await next_message(receiver)
        await receiver.defer_message(message)
        numbers = [message.sequence_number]
        suspend(bus, status)
        with pytest.raises(MessagingEntityDisabledError, match="Receiving from queue"):
            await receiver.receive_deferred_messages(numbers)
        suspend(bus, Status.SEND_DISABLED)
        (found,) = await receiver.receive_deferred_messages(numbers)
        assert body_of(found) == b"a"


@pytest.mark.parametrize("status", [Status.DISABLED, Status.RECEIVE_DISABLED])
async def test_no_lock_is_renewed_while_receiving_is_disabled(status):
    async with bus() as one, peer_of(one.emulator) as peer:
        await one.send("a")
        link = peer.receiver("invoices")
        assert await peer.attached(link) is None
        delivery, _ = await peer.receive(link)
        tokens = proton.Array(proton.UNDESCRIBED, proton.Data.UUID, UUID(bytes_le=tag_of(delivery)))
        await suspended(one.emulator, status)
        answer = await ask(peer, "renew-lock", {"lock-tokens": tokens})
        assert answer.properties["statusCode"] == 403
        assert answer.properties["errorCondition"] == "com.microsoft:entity-disabled"
        await suspended(one.emulator, Status.SEND_DISABLED)
        answer = await ask(peer, "renew-lock", {"lock-tokens": tokens})
        assert answer.properties["statusCode"] == 200


@pytest.mark.parametrize("status", [Status.DISABLED, Status.RECEIVE_DISABLED])
@pytest.mark.parametrize("path", ["invoices", "invoices/$deadletterqueue"])
async def test_a_receiver_without_credit_hears_at_once_that_receiving_is_disabled(status, path):
    async with bus() as one, peer_of(one.emulator) as peer:
        link = peer.receiver(path)
        assert await peer.attached(link) is None
        await suspended(one.emulator, status)
        await peer.until(lambda: link.state & proton.Endpoint.REMOTE_CLOSED)
        assert link.remote_condition.name == "com.microsoft:entity-disabled"


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


async def test_a_subscriber_in_javascript_hears_that_receiving_is_disabled():
    code = """
        import { ServiceBusClient } from "@azure/service-bus";
        const client = new ServiceBusClient(process.env.SERVICE_BUS);
        client.createReceiver("invoices").subscribe({
          processMessage: async () => {},
          processError: async ({ error }) => {
            console.log(error.code);
            process.exit(0);
          },
        });
    """
    async with bus() as one:
        where = one.emulator.connection_string
        words = ("--input-type=module", "-")
        said = asyncio.ensure_future(run_node(*words, stdin=code.encode(), SERVICE_BUS=where))
        receivers = one.emulator._broker.find("invoices")._receivers
        await eventually(lambda: receivers.anyone_waits or said.done())
        await suspended(one.emulator, Status.RECEIVE_DISABLED)
        assert await said == "MessagingEntityDisabled\n"


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
