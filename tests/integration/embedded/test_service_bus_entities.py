"""Queues that come, change and go while the Service Bus emulator runs, and after it has died."""

import asyncio
from dataclasses import replace

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusSubQueue
from azure.servicebus.exceptions import MessagingEntityNotFoundError, ServiceBusError

from bpa.embedded.service_bus import QueueConfig, ServiceBusEmulator
from bpa.embedded.service_bus.records import deleted
from bpa.embedded.service_bus.refusals import EntityExists, EntityNotFound
from tests.integration.embedded.service_bus import body_of, bus, options_for, receive_one

DEAD = ServiceBusSubQueue.DEAD_LETTER
NEW = QueueConfig("New", max_delivery_count=2)


def broker_of(one):
    return one.emulator._broker


async def test_a_queue_made_at_run_time_serves_and_survives(tmp_path):
    async with bus(data_dir=tmp_path) as one:
        await broker_of(one).create(NEW)
        with pytest.raises(EntityExists, match="'new' already exists"):
            await broker_of(one).create(replace(NEW, name="new"))
        await one.send("kept", queue="new")
    async with bus(data_dir=tmp_path) as one, one.receiver("New") as receiver:
        assert broker_of(one).entity("nEw").config == NEW
        assert body_of(await receive_one(receiver)) == b"kept"


async def test_a_change_of_properties_counts_at_once_and_after_a_restart(tmp_path):
    changed = QueueConfig("invoices", max_delivery_count=1)
    async with bus(data_dir=tmp_path) as one, one.receiver() as receiver:
        await one.send("x")
        message = await receive_one(receiver)
        await broker_of(one).update(changed)
        await receiver.abandon_message(message)
        async with one.receiver(sub_queue=DEAD) as dead:
            assert (await receive_one(dead)).dead_letter_reason == "MaxDeliveryCountExceeded"
    async with bus(data_dir=tmp_path) as one:
        assert broker_of(one).entity("invoices").config == changed


async def test_a_deleted_queue_detaches_its_links_and_is_not_found(tmp_path):
    async with bus(data_dir=tmp_path) as one, one.sender() as sender:
        await sender.send_messages(ServiceBusMessage("a"))
        async with one.receiver() as receiver, one.receiver(sub_queue=DEAD) as dead:
            message = await receive_one(receiver)
            await receiver.dead_letter_message(message)
            await receive_one(dead)
            await sender.send_messages(ServiceBusMessage("b"))
            await receive_one(receiver)
            await broker_of(one).delete("Invoices")
            for link in (receiver, dead):
                with pytest.raises(ServiceBusError, match="could not be found"):
                    await link.receive_messages(1, max_wait_time=5)
            with pytest.raises(ServiceBusError):  # the SDK's sender does not look at the reason
                await sender.send_messages(ServiceBusMessage("c"), timeout=5)
            with pytest.raises(MessagingEntityNotFoundError):
                await sender.send_messages(ServiceBusMessage("c"), timeout=5)
        with pytest.raises(EntityNotFound):
            await broker_of(one).delete("invoices")


async def test_a_queue_made_again_is_empty_and_counts_from_one(tmp_path):
    async with bus(NEW, data_dir=tmp_path) as one:
        await one.send("old", "old", queue="New")
        await broker_of(one).delete("New")
        await broker_of(one).create(NEW)
        await one.send("new", queue="New")
    async with bus(NEW, data_dir=tmp_path) as one, one.receiver("New") as receiver:
        message = await receive_one(receiver)
        assert (body_of(message), message.sequence_number) == (b"new", 1)
        assert await one.counts("New") == (0, 1, 0)


async def test_a_configured_queue_made_again_keeps_the_properties_it_was_made_with(tmp_path):
    again = QueueConfig("INVOICES", max_delivery_count=2, lock_duration_s=5.0)
    async with bus(data_dir=tmp_path) as one:
        await broker_of(one).delete("invoices")
        await broker_of(one).create(again)
    for _ in range(2):
        async with bus(data_dir=tmp_path) as one:
            assert broker_of(one).entity("invoices").config == again
    edited = QueueConfig("invoices", max_delivery_count=4)
    async with bus(edited, data_dir=tmp_path) as one:
        assert broker_of(one).entity("invoices").config == edited


async def test_a_deleted_queue_that_the_configuration_names_is_there_again_and_empty(tmp_path):
    async with bus(data_dir=tmp_path) as one:
        await one.send("x")
        await broker_of(one).delete("invoices")
    async with bus(data_dir=tmp_path) as one:
        assert await one.counts() == (0, 0, 0)


async def test_a_journal_torn_within_a_deletion_has_the_queue_still(tmp_path):
    async with bus(data_dir=tmp_path) as one:
        await broker_of(one).create(NEW)
        await one.send("kept", queue="New")
        await broker_of(one).delete("New")
    journal = tmp_path / "journal.log"
    whole = journal.read_bytes()
    assert whole.endswith(deleted("new"))
    journal.write_bytes(whole[: -len(deleted("new")) + 3])
    async with bus(data_dir=tmp_path) as one, one.receiver("New") as receiver:
        assert body_of(await receive_one(receiver)) == b"kept"


async def test_sends_under_way_when_their_queue_goes_leave_nothing_behind(tmp_path):
    async with bus(NEW, data_dir=tmp_path) as one, one.sender("New") as sender:
        await sender.send_messages(ServiceBusMessage("first"))
        sending = sender.send_messages(ServiceBusMessage("x"), timeout=2)
        await asyncio.gather(sending, broker_of(one).delete("New"), return_exceptions=True)
    async with ServiceBusEmulator(options_for(data_dir=tmp_path)) as emulator:
        assert emulator._broker.find("New") is None
