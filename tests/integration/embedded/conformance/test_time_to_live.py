"""Expiration: message-expiration in Microsoft's documentation."""

from datetime import UTC, datetime, timedelta

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.exceptions import MessageLockLostError

from bpa.embedded.service_bus import QueueConfig
from tests.eventually import eventually
from tests.integration.embedded.conformance.sdk import (
    DEAD,
    body_of,
    next_message,
    nothing_comes,
    running,
)

MS = timedelta(milliseconds=1)


def times_of(message):
    properties = message.raw_amqp_message.properties
    return tuple(
        datetime.fromtimestamp(at_ms / 1000, UTC)
        for at_ms in (properties.absolute_expiry_time, properties.creation_time)
    )


@pytest.mark.parametrize(
    ("asked", "default_s", "given"), [(60, None, 60), (60, 3600, 60), (3600, 60, 60), (None, 9, 9)]
)
async def test_the_shorter_of_the_message_s_and_the_queue_s_time_to_live_counts(
    kind, asked, default_s, given
):
    async with running(kind, QueueConfig("invoices", default_ttl_s=default_s)) as bus:
        life = None if asked is None else timedelta(seconds=asked)
        await bus.send("x", time_to_live=life)
        message = await next_message(await bus.receiver())
        assert message.time_to_live == timedelta(seconds=given)
        expiry, creation = times_of(message)
        assert abs(creation - message.enqueued_time_utc) < MS
        assert expiry - creation == timedelta(seconds=given)
        assert abs(message.expires_at_utc - expiry) <= MS


async def test_a_message_without_any_time_to_live_shows_none(kind):
    async with running(kind) as bus:
        await bus.send("x")
        message = await next_message(await bus.receiver())
        assert message.time_to_live is None
        assert message.raw_amqp_message.properties.absolute_expiry_time is None


@pytest.mark.parametrize("burying", [True, False])
async def test_an_expired_message_is_dead_lettered_only_where_the_queue_says_so(kind, burying):
    queue = QueueConfig("invoices", dead_letter_on_expiration=burying)
    async with running(kind, queue) as bus:
        receiver, dead = await bus.receiver(), await bus.receiver(sub_queue=DEAD)
        sender = await bus.sender()
        life = timedelta(milliseconds=50)
        await sender.send_messages(ServiceBusMessage("brief", time_to_live=life))

        async def gone():
            return not await receiver.peek_messages(1, sequence_number=1)

        await eventually(gone)
        if not burying:
            assert await nothing_comes(dead)
            return
        letter = await next_message(dead)
        assert letter.dead_letter_reason == "TTLExpiredException"
        assert (letter.sequence_number, letter.delivery_count) == (1, 0)


async def test_a_dead_letter_does_not_expire(kind, clock):
    async with running(kind, QueueConfig("invoices", default_ttl_s=30)) as bus:
        receiver, dead = await bus.receiver(), await bus.receiver(sub_queue=DEAD)
        await bus.send("buried", "brief")
        await receiver.dead_letter_message(await next_message(receiver), reason="r")
        clock.pass_by(bus.emulator, 31)
        assert await receiver.peek_messages(1, sequence_number=1) == []
        letter = await next_message(dead)
        assert (body_of(letter), letter.dead_letter_reason) == (b"buried", "r")


async def test_a_locked_message_does_not_expire_and_may_be_completed(kind, clock):
    async with running(kind, QueueConfig("invoices", default_ttl_s=30)) as bus:
        receiver = await bus.receiver()
        await bus.send("held", "brief")
        message = await next_message(receiver)
        clock.pass_by(bus.emulator, 31)
        seen = await receiver.peek_messages(5, sequence_number=1)
        assert [body_of(one) for one in seen] == [b"held"]
        await receiver._settle_message_via_mgmt_link("completed", [message.lock_token])
        assert await receiver.peek_messages(5, sequence_number=1) == []


async def test_a_message_abandoned_past_its_time_expires_at_once(kind, clock):
    async with running(kind, QueueConfig("invoices", default_ttl_s=30)) as bus:
        receiver = await bus.receiver()
        await bus.send("held")
        message = await next_message(receiver)
        clock.pass_by(bus.emulator, 31)
        await receiver._settle_message_via_mgmt_link("abandoned", [message.lock_token])
        assert await receiver.peek_messages(5, sequence_number=1) == []
        with pytest.raises(MessageLockLostError):
            await receiver._settle_message_via_mgmt_link("abandoned", [message.lock_token])
