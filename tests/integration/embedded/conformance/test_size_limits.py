"""Sizes by tier: service-bus-quotas in Microsoft's documentation."""

import json
from datetime import UTC, datetime, timedelta

import proton
import pytest
from azure.core.exceptions import HttpResponseError
from azure.servicebus import ServiceBusMessage
from azure.servicebus.exceptions import MessageSizeExceededError

from bpa.embedded.service_bus import PREMIUM, STANDARD, QueueConfig
from tests.integration.embedded.conformance.peer import peer_of
from tests.integration.embedded.conformance.sdk import body_of, next_message, running
from tests.integration.embedded.javascript import run_node
from tests.integration.embedded.service_bus import bus
from tests.integration.embedded.test_service_bus_administration import administered

KB = 1024
MB = 1024 * KB
LARGE = QueueConfig("invoices", max_message_kb=102_400)
HEAD_ROOM = 1_000


def lift_the_client_s_own_limit(sender):
    inner = getattr(sender, "_blocking", sender)
    inner._max_message_size_on_link = inner._max_batch_size_on_link = 1_000 * MB
    inner._handler._link.remote_max_message_size = 1_000 * MB


@pytest.mark.parametrize(
    ("tier", "queue", "limit"),
    [
        (STANDARD, QueueConfig("invoices"), 256 * KB),
        (PREMIUM, QueueConfig("invoices"), MB),
        (PREMIUM, QueueConfig("invoices", max_message_kb=3_000), 3_000 * KB),
        (STANDARD, LARGE, 256 * KB),
    ],
)
async def test_a_message_up_to_the_limit_passes_and_a_larger_one_does_not(kind, tier, queue, limit):
    async with running(kind, queue, tier=tier) as one:
        await one.send(b"x" * (limit - HEAD_ROOM))
        inner = getattr(one._sender, "_blocking", one._sender)
        assert inner._max_message_size_on_link == limit
        lift_the_client_s_own_limit(one._sender)
        with pytest.raises(MessageSizeExceededError, match=f"larger than the {limit} bytes"):
            await one.send(b"x" * limit)
        await one.send(b"after")
        receiver = await one.receiver()
        assert len(body_of(await next_message(receiver))) == limit - HEAD_ROOM
        assert body_of(await next_message(receiver)) == b"after"


async def test_a_message_of_100_mb_is_carried_in_premium(tmp_path):
    size = 100 * MB - HEAD_ROOM
    async with bus(LARGE, tier=PREMIUM, data_dir=tmp_path) as one:
        await one.send(b"x" * size, b"behind")
    async with bus(LARGE, tier=PREMIUM, data_dir=tmp_path) as one, one.receiver() as receiver:
        first = await next_message(receiver, wait_s=60)
        assert len(body_of(first)) == size
        await receiver.complete_message(first)
        assert body_of(await next_message(receiver)) == b"behind"


@pytest.mark.parametrize(("tier", "limit"), [(STANDARD, 256 * KB), (PREMIUM, MB)])
async def test_a_batch_has_a_limit_of_its_own_which_the_link_tells(kind, tier, limit):
    async with running(kind, LARGE, tier=tier) as one:
        sender = await one.sender()
        batch = await sender.create_message_batch()
        assert batch.max_size_in_bytes == limit
        batch.add_message(ServiceBusMessage(b"x" * (limit // 2)))
        with pytest.raises(MessageSizeExceededError):
            batch.add_message(ServiceBusMessage(b"x" * (limit // 2)))
        await one.send(b"warm")
        lift_the_client_s_own_limit(one._sender)
        with pytest.raises(MessageSizeExceededError, match=f"larger than the {limit} bytes"):
            await one._sender.send_messages([ServiceBusMessage(b"x" * (limit // 2))] * 2)
        assert len(await (await one.receiver()).peek_messages(5)) == 1


@pytest.mark.parametrize(("tier", "limit"), [(STANDARD, 256 * KB), (PREMIUM, MB)])
async def test_the_client_of_javascript_makes_batches_of_a_message_s_size(tier, limit):
    async with bus(tier=tier) as one:
        code = """
            import { ServiceBusClient } from "@azure/service-bus";
            const client = new ServiceBusClient(process.env.SERVICE_BUS);
            const batch = await client.createSender("invoices").createMessageBatch();
            console.log(JSON.stringify(batch.maxSizeInBytes));
            await client.close();
        """
        words = ("--input-type=module", "-")
        where = one.emulator.connection_string
        assert json.loads(await run_node(*words, stdin=code.encode(), SERVICE_BUS=where)) == limit


@pytest.mark.parametrize(
    ("tier", "message", "batch"), [(STANDARD, 256 * KB, 256 * KB), (PREMIUM, 100 * MB, MB)]
)
async def test_an_attach_tells_the_limits_of_messages_and_batches(tier, message, batch):
    async with bus(LARGE, tier=tier) as one, peer_of(one.emulator) as peer:
        link = peer.sender("invoices")
        assert await peer.attached(link) is None
        assert link.remote_max_message_size == message
        told = link.remote_properties[proton.symbol("com.microsoft:max-message-batch-size")]
        assert (told, type(told)) == (batch, proton.ulong)


@pytest.mark.parametrize("tier", [STANDARD, PREMIUM])
async def test_a_scheduled_message_has_the_same_limit(kind, tier):
    due = datetime.now(UTC) + timedelta(hours=1)
    limit = tier.message_kb * KB
    async with running(kind, tier=tier) as one:
        sender = await one.sender()
        await sender.schedule_messages(ServiceBusMessage(b"x" * (limit - HEAD_ROOM)), due)
        with pytest.raises(MessageSizeExceededError):
            await sender.schedule_messages(ServiceBusMessage(b"x" * limit), due)


async def test_premium_lets_the_largest_message_of_a_queue_be_set_and_changed():
    async with administered(tier=PREMIUM) as (one, client):
        assert (await client.get_namespace_properties()).messaging_sku == "Premium"
        assert (await client.get_queue("invoices")).max_message_size_in_kilobytes == 1024
        queue = await client.create_queue("q", max_message_size_in_kilobytes=102_400)
        assert queue.max_message_size_in_kilobytes == 102_400
        async with one.sender("q") as sender:
            await sender.send_messages(ServiceBusMessage(b"x" * 2 * MB))
            queue.max_message_size_in_kilobytes = 1024
            await client.update_queue(queue)
            with pytest.raises(MessageSizeExceededError, match="larger than the 1048576 bytes"):
                await sender.send_messages(ServiceBusMessage(b"x" * 2 * MB))
        for wrong in (1023, 102_401):
            with pytest.raises(HttpResponseError, match="whole number from 1024 to 102400"):
                await client.create_queue("w", max_message_size_in_kilobytes=wrong)


async def test_standard_refuses_to_have_the_largest_message_set():
    async with administered() as (_, client):
        assert (await client.get_namespace_properties()).messaging_sku == "Standard"
        assert (await client.get_queue("invoices")).max_message_size_in_kilobytes is None
        with pytest.raises(HttpResponseError, match="Premium lets it be set") as caught:
            await client.create_queue("q", max_message_size_in_kilobytes=1024)
        assert caught.value.status_code == 400


@pytest.mark.parametrize(("tier", "most"), [(STANDARD, 5 * 1024), (PREMIUM, 80 * 1024)])
async def test_the_largest_queue_is_the_tier_s(tier, most):
    async with administered(tier=tier) as (_, client):
        queue = await client.create_queue("q", max_size_in_megabytes=most)
        assert queue.max_size_in_megabytes == most
        with pytest.raises(HttpResponseError, match=f"from 1 to {most}"):
            await client.create_queue("r", max_size_in_megabytes=most + 1)
