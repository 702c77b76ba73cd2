"""A full queue: QuotaExceeded in Microsoft's messaging exceptions, and the limits by tier."""

from datetime import UTC, datetime, timedelta

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.exceptions import ServiceBusQuotaExceededError

from bpa.embedded.service_bus import PREMIUM, QueueConfig
from tests.integration.embedded.conformance.sdk import DEAD, next_message, running
from tests.integration.embedded.service_bus import bus, receive_one
from tests.integration.embedded.test_service_bus_administration import administered

SMALL = QueueConfig("invoices", max_size_mb=1)
PART = b"x" * 200_000
PARTS = 6
"""As many as exceed a megabyte; one less does not."""


def full():
    return pytest.raises(ServiceBusQuotaExceededError, match="has been reached or exceeded")


async def test_a_full_queue_takes_nothing_until_something_is_received(kind):
    async with running(kind, SMALL) as one:
        await one.send(*[PART] * PARTS)
        with full():
            await one.send("small")
        receiver = await one.receiver()
        await receiver.complete_message(await next_message(receiver))
        await one.send("small")


async def test_a_full_queue_schedules_nothing(kind):
    due = datetime.now(UTC) + timedelta(hours=1)
    async with running(kind, SMALL) as one:
        sender = await one.sender()
        numbers = [await sender.schedule_messages(ServiceBusMessage(PART), due) for _ in range(6)]
        with full():
            await sender.schedule_messages(ServiceBusMessage("small"), due)
        await sender.cancel_scheduled_messages(numbers[0])
        await sender.schedule_messages(ServiceBusMessage("small"), due)


async def test_dead_letters_fill_their_queue_too(kind):
    async with running(kind, SMALL) as one:
        await one.send(*[PART] * PARTS)
        receiver, dead = await one.receiver(), await one.receiver(sub_queue=DEAD)
        await receiver.dead_letter_message(await next_message(receiver))
        with full():
            await one.send("small")
        await dead.complete_message(await next_message(dead))
        await one.send("small")


async def test_a_large_message_counts_twice():
    queue = QueueConfig("invoices", max_size_mb=3, max_message_kb=2048)
    async with bus(queue, tier=PREMIUM) as one:
        await one.send(b"x" * 1_600_000)
        with full():
            await one.send("small")


async def test_a_queue_is_as_full_after_a_restart(tmp_path):
    async with bus(SMALL, data_dir=tmp_path) as one:
        await one.send(*[PART] * PARTS)
    async with bus(SMALL, data_dir=tmp_path) as one:
        with full():
            await one.send("small")


async def test_a_larger_queue_has_room_at_once_and_tells_its_size():
    async with administered(SMALL) as (one, client), one.receiver() as receiver:
        await one.send(*[PART] * PARTS)
        with full():
            await one.send("small")
        queue = await client.get_queue("invoices")
        await client.update_queue(queue, max_size_in_megabytes=2)
        await one.send("small")
        told = await client.get_queue_runtime_properties("invoices")
        assert PARTS * len(PART) < told.size_in_bytes < PARTS * len(PART) + 1000
        for _ in range(PARTS + 1):
            await receiver.complete_message(await receive_one(receiver))
        assert (await client.get_queue_runtime_properties("invoices")).size_in_bytes == 0
