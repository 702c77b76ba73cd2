"""Sizes by tier: service-bus-quotas in Microsoft's documentation."""

from datetime import UTC, datetime, timedelta

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.exceptions import MessageSizeExceededError

from tests.integration.embedded.conformance.sdk import body_of, next_message, running

STANDARD, PREMIUM = 262_144, 1_048_576
HEAD_ROOM = 1_000


def lift_the_client_s_own_limit(sender):
    inner = getattr(sender, "_blocking", sender)
    inner._max_message_size_on_link = 10_000_000
    inner._handler._link.remote_max_message_size = 10_000_000


@pytest.mark.parametrize("limit", [STANDARD, PREMIUM])
async def test_a_message_up_to_the_limit_of_the_tier_passes_and_a_larger_one_does_not(kind, limit):
    async with running(kind, max_message_bytes=limit) as bus:
        await bus.send(b"x" * (limit - HEAD_ROOM))
        lift_the_client_s_own_limit(bus._sender)
        with pytest.raises(MessageSizeExceededError):
            await bus.send(b"x" * limit)
        await bus.send(b"after")
        receiver = await bus.receiver()
        assert len(body_of(await next_message(receiver))) == limit - HEAD_ROOM
        assert body_of(await next_message(receiver)) == b"after"


async def test_a_batch_counts_as_a_whole(kind):
    async with running(kind) as bus:
        sender = await bus.sender()
        batch = await sender.create_message_batch()
        assert batch.max_size_in_bytes == STANDARD
        batch.add_message(ServiceBusMessage(b"x" * 200_000))
        with pytest.raises(MessageSizeExceededError):
            batch.add_message(ServiceBusMessage(b"x" * 100_000))
        await bus.send(b"warm")
        lift_the_client_s_own_limit(bus._sender)
        with pytest.raises(MessageSizeExceededError):
            await bus._sender.send_messages([ServiceBusMessage(b"x" * 150_000)] * 2)
        assert len(await (await bus.receiver()).peek_messages(5)) == 1


async def test_a_scheduled_message_has_the_same_limit(kind):
    due = datetime.now(UTC) + timedelta(hours=1)
    async with running(kind) as bus:
        sender = await bus.sender()
        await sender.schedule_messages(ServiceBusMessage(b"x" * (STANDARD - HEAD_ROOM)), due)
        with pytest.raises(MessageSizeExceededError):
            await sender.schedule_messages(ServiceBusMessage(b"x" * STANDARD), due)
