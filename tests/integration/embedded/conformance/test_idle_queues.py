"""AutoDeleteOnIdle: "Idleness" in Microsoft's page on message expiration."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import proton
import pytest
from azure.core.exceptions import ResourceNotFoundError
from azure.servicebus import ServiceBusMessage
from azure.servicebus.exceptions import MessagingEntityNotFoundError

from bpa.embedded.service_bus import QueueConfig
from tests.eventually import eventually
from tests.integration.embedded.conformance.peer import peer_of
from tests.integration.embedded.conformance.sdk import DEAD
from tests.integration.embedded.service_bus import Clock, bus, receive_one
from tests.integration.embedded.test_service_bus_administration import administered

IDLE_S = 300
QUEUE = QueueConfig("invoices", auto_delete_s=IDLE_S, lock_duration_s=IDLE_S)


class LookingClock(Clock):
    """Wakes the broker to look for idle queues."""

    def there_after(self, one, seconds):
        """Let time pass; whether the queue is there then."""
        self.forward(seconds)
        one.emulator._broker._look_for_idleness("invoices")
        return one.emulator._broker.find("invoices") is not None


@pytest.fixture
def clock(monkeypatch):
    return LookingClock(monkeypatch)


async def send(one, _):
    await one.send("x")


async def ask_for_messages(one, _):
    async with one.receiver() as receiver:
        assert await receiver.receive_messages(1, max_wait_time=0.05) == []


async def ask_for_dead_letters(one, _):
    async with one.receiver(sub_queue=DEAD) as receiver:
        assert await receiver.receive_messages(1, max_wait_time=0.05) == []


async def browse(one, _):
    async with one.receiver() as receiver:
        assert await receiver.peek_messages(1) == []


async def schedule_and_cancel(one, _):
    async with one.sender() as sender:
        due = datetime.now(UTC) + timedelta(days=1)
        numbers = await sender.schedule_messages(ServiceBusMessage("x"), due)
        await sender.cancel_scheduled_messages(numbers)


async def update(_, client):
    await client.update_queue(await client.get_queue("invoices"))


@pytest.mark.parametrize(
    "use", [send, ask_for_messages, ask_for_dead_letters, browse, schedule_and_cancel, update]
)
async def test_each_use_of_a_queue_begins_its_idle_time_anew(use, clock):
    async with administered(QUEUE) as (one, client):
        assert clock.there_after(one, IDLE_S - 10)
        await use(one, client)
        assert clock.there_after(one, IDLE_S - 10)
        assert not clock.there_after(one, 11)


async def test_asking_what_a_queue_is_does_not_use_it(clock):
    async with administered(QUEUE) as (one, client):
        assert clock.there_after(one, IDLE_S - 10)
        await client.get_queue_runtime_properties("invoices")
        assert not clock.there_after(one, 11)


async def test_a_queue_with_a_scheduled_message_is_not_idle(clock):
    async with bus(QUEUE) as one, one.sender() as sender:
        due = datetime.now(UTC) + timedelta(days=1)
        await sender.schedule_messages(ServiceBusMessage("x"), due)
        assert clock.there_after(one, 10 * IDLE_S)


async def test_a_queue_with_messages_that_nobody_wants_is_idle(clock):
    async with bus(QUEUE) as one:
        await one.send("x")
        assert not clock.there_after(one, IDLE_S + 1)


@pytest.mark.parametrize("path", ["invoices", "invoices/$deadletterqueue"])
async def test_a_queue_with_a_receiver_that_waits_is_not_idle(path, clock):
    async with bus(QUEUE) as one, peer_of(one.emulator) as peer:
        link = peer.receiver(path)
        assert await peer.attached(link) is None
        link.flow(1)
        peer._send()
        await eventually(lambda: one.emulator._broker.find(path)._receivers.anyone_waits)
        assert clock.there_after(one, 10 * IDLE_S)
        link.close()
        await peer.until(lambda: link.state & proton.Endpoint.REMOTE_CLOSED)
        assert not clock.there_after(one, IDLE_S + 1)


async def test_a_queue_whose_message_is_worked_on_is_not_idle(clock):
    async with bus(QUEUE) as one, one.receiver() as receiver:
        await one.send("x")
        await receive_one(receiver)
        assert clock.there_after(one, IDLE_S + 1)


async def test_an_idle_queue_goes_by_itself_and_its_links_with_it(tmp_path):
    async with administered(QUEUE, data_dir=tmp_path) as (one, client):
        async with peer_of(one.emulator) as peer:
            link = peer.sender("invoices")
            assert await peer.attached(link) is None
            await one.emulator._broker.update(replace(QUEUE, auto_delete_s=0.01))
            await peer.until(lambda: link.state & proton.Endpoint.REMOTE_CLOSED)
            assert link.remote_condition.name == "amqp:not-found"
        with pytest.raises(ResourceNotFoundError):
            await client.get_queue("invoices")
        with pytest.raises(MessagingEntityNotFoundError):
            await one.send("x")
    async with bus(QueueConfig("other"), data_dir=tmp_path) as one:
        assert one.emulator._broker.find("invoices") is None


async def test_an_update_lets_an_idle_queue_stay():
    async with administered(QUEUE) as (one, client):
        queue = await client.get_queue("invoices")
        assert queue.auto_delete_on_idle == timedelta(seconds=IDLE_S)
        assert one.emulator._broker._idle_looks
        await client.update_queue(queue, auto_delete_on_idle=timedelta.max)
        assert not one.emulator._broker._idle_looks
