"""Duplicate detection: duplicate-detection in Microsoft's documentation."""

from datetime import UTC, datetime, timedelta

import pytest
from azure.servicebus import ServiceBusMessage

from bpa.embedded.service_bus import QueueConfig
from tests.integration.embedded.conformance.sdk import (
    body_of,
    next_message,
    nothing_comes,
    running,
)

DETECTING = QueueConfig("invoices", duplicate_window_s=60)


def message(body, message_id):
    return ServiceBusMessage(body, message_id=message_id)


async def bodies_in(bus):
    receiver = await bus.receiver()
    return [body_of(seen) for seen in await receiver.peek_messages(50, sequence_number=1)]


@pytest.mark.parametrize("settled", [False, True])
async def test_a_message_with_a_known_id_is_accepted_and_dropped(kind, settled):
    async with running(kind, DETECTING) as bus:
        await bus.send("first", message_id="m")
        receiver = await bus.receiver()
        first = await next_message(receiver)
        if settled:
            await receiver.complete_message(first)
        await bus.send("second", message_id="m")
        await bus.send("other", message_id="n")
        assert body_of(await next_message(receiver)) == b"other"
        assert await nothing_comes(receiver)


async def test_a_batch_loses_only_its_duplicates(kind):
    async with running(kind, DETECTING) as bus:
        await bus.send("one", message_id="1")
        sender = await bus.sender()
        await sender.send_messages(
            [message("again", "1"), message("two", "2"), message("too", "2"), message("three", "3")]
        )
        assert await bodies_in(bus) == [b"one", b"two", b"three"]


async def test_a_scheduled_duplicate_has_the_number_of_the_first(kind):
    due = datetime.now(UTC) + timedelta(hours=1)
    async with running(kind, DETECTING) as bus:
        sender = await bus.sender()
        first = await sender.schedule_messages(message("a", "1"), due)
        again = await sender.schedule_messages(message("b", "1"), due)
        assert (first, again) == ([1], [1])
        assert await bodies_in(bus) == [b"a"]


async def test_after_the_window_an_id_is_new_again(kind, clock):
    async with running(kind, QueueConfig("invoices", duplicate_window_s=60)) as bus:
        await bus.send("first", message_id="m")
        await bus.send("dropped", message_id="m")
        assert await bodies_in(bus) == [b"first"]
        clock.pass_by(bus.emulator, 61)
        await bus.send("again", message_id="m")
        assert await bodies_in(bus) == [b"first", b"again"]


async def test_messages_without_an_id_are_no_duplicates_of_each_other(kind):
    async with running(kind, DETECTING) as bus:
        sender = await bus.sender()
        for body in ("a", "b"):
            one = ServiceBusMessage(body)
            one.raw_amqp_message.properties.message_id = None
            await sender.send_messages(one)
        assert await bodies_in(bus) == [b"a", b"b"]


async def test_a_queue_that_does_not_detect_takes_every_copy(kind):
    async with running(kind) as bus:
        await bus.send("a", "b", message_id="m")
        assert await bodies_in(bus) == [b"a", b"b"]


async def test_the_history_survives_a_restart(kind, tmp_path):
    async with running(kind, DETECTING, data_dir=tmp_path) as bus:
        await bus.send("done", message_id="1")
        await bus.send("kept", message_id="2")
        receiver = await bus.receiver()
        await receiver.complete_message(await next_message(receiver))
    for _ in range(2):
        async with running(kind, DETECTING, data_dir=tmp_path) as bus:
            await bus.send("again", message_id="1")
            await bus.send("again", message_id="2")
            assert await bodies_in(bus) == [b"kept"]
