"""Nothing is confirmed before it is on disk: with the disk held up, no answer comes."""

import asyncio
import contextlib
import os
import threading
from uuid import UUID

import proton
import pytest

from bpa.embedded.service_bus import QueueConfig, ServiceBusEmulator
from tests.eventually import eventually
from tests.integration.embedded.conformance.peer import peer_of, tag_of
from tests.integration.embedded.service_bus import options_for
from tests.integration.embedded.test_service_bus_administration import administered

DETECTING = QueueConfig("invoices", duplicate_window_s=60.0)


@pytest.fixture
def disk(monkeypatch):
    """Yield a function that holds up every sync while its context lasts."""
    free, sync = threading.Event(), os.fdatasync

    def sync_when_free(fd):
        free.wait()
        sync(fd)

    @contextlib.contextmanager
    def held_up():
        free.clear()
        try:
            yield
        finally:
            free.set()

    free.set()
    monkeypatch.setattr(os, "fdatasync", sync_when_free)
    return held_up


class Desk:
    """The management of ``invoices``, asked without waiting for the answers."""

    def __init__(self, peer):
        self._peer = peer
        self._asking = peer.sender("invoices/$management", "ask")
        self._answers = peer.receiver("invoices/$management", "ask")

    async def open(self):
        for link in (self._asking, self._answers):
            assert await self._peer.attached(link) is None
        self._answers.flow(100)

    def ask(self, operation, **body):
        properties = {"operation": f"com.microsoft:{operation}"}
        fields = {name.replace("_", "-"): value for name, value in body.items()}
        request = proton.Message(id=operation, properties=properties, body=fields, reply_to="ask")
        self._peer.begin(self._asking)
        self._asking.send(request.encode())
        self._asking.advance()

    async def answer(self):
        """Which operation is answered next; it must have succeeded."""
        _, encoded = await self._peer.receive(self._answers, credit=0)
        response = proton.Message()
        response.decode(encoded)
        assert response.properties["statusCode"] in (200, 204), response.properties
        return response.correlation_id

    async def is_read_this_far(self):
        """Have a look answered, which waits for no disk; nothing may be answered before it."""
        self.ask("peek-message", from_sequence_number=1, message_count=proton.int32(1))
        assert await self.answer() == "peek-message"


@contextlib.asynccontextmanager
async def desk_of(directory):
    """Yield (a peer, its desk) of an emulator that detects duplicates."""
    async with (
        ServiceBusEmulator(options_for(DETECTING, data_dir=directory)) as emulator,
        peer_of(emulator) as peer,
    ):
        desk = Desk(peer)
        await desk.open()
        yield peer, desk


def later(name):
    key = proton.symbol("x-opt-scheduled-enqueue-time")
    message = proton.Message(id=name, annotations={key: proton.timestamp(2**42)})
    return [{"message": message.encode()}]


def numbers(*values):
    return proton.Array(proton.UNDESCRIBED, proton.Data.LONG, *values)


async def locked(peer, count):
    """Send messages and receive them; their deliveries, numbered from 1."""
    sender, receiver = peer.sender("invoices"), peer.receiver("invoices")
    for link in (sender, receiver):
        assert await peer.attached(link) is None
    for n in range(count):
        await peer.send(sender, proton.Message(id=f"m{n}").encode())
    return [(await peer.receive(receiver))[0] for _ in range(count)]


def tokens(delivery):
    return proton.Array(proton.UNDESCRIBED, proton.Data.UUID, UUID(bytes_le=tag_of(delivery)))


async def test_management_answers_when_what_it_did_is_on_disk(tmp_path, disk):
    async with desk_of(tmp_path) as (peer, desk):
        aside, held, changed = await locked(peer, 3)
        desk.ask("update-disposition", disposition_status="defered", lock_tokens=tokens(aside))
        desk.ask("schedule-message", messages=later("early"))
        assert [await desk.answer() for _ in range(2)] == ["update-disposition", "schedule-message"]
        with disk():
            desk.ask("schedule-message", messages=later("late"))
            await desk.is_read_this_far()
            desk.ask("cancel-scheduled-message", sequence_numbers=numbers(4))
            await desk.is_read_this_far()
            desk.ask(
                "receive-by-sequence-number",
                sequence_numbers=numbers(1),
                receiver_settle_mode=proton.uint(0),
            )
            await desk.is_read_this_far()
            for status, delivery in (("defered", held), ("abandoned", changed)):
                desk.ask(
                    "update-disposition",
                    disposition_status=status,
                    lock_tokens=tokens(delivery),
                    properties_to_modify={"mine": "kept"},
                )
                await desk.is_read_this_far()
        assert [await desk.answer() for _ in range(5)] == [
            "schedule-message",
            "cancel-scheduled-message",
            "receive-by-sequence-number",
            "update-disposition",
            "update-disposition",
        ]


@pytest.mark.parametrize("aside", [False, True], ids=["abandoned", "deferred"])
async def test_a_settlement_that_changes_properties_is_echoed_when_it_is_on_disk(
    tmp_path, disk, aside
):
    async with desk_of(tmp_path) as (peer, desk):
        (delivery,) = await locked(peer, 1)
        with disk():
            delivery.local.failed, delivery.local.undeliverable = True, aside
            delivery.local.annotations = {proton.symbol("mine"): "kept"}
            delivery.update(proton.Delivery.MODIFIED)
            await desk.is_read_this_far()
            assert not delivery.settled
        await peer.until(lambda: delivery.settled)
        assert delivery.remote_state == proton.Delivery.MODIFIED


async def test_a_duplicate_is_accepted_when_its_first_copy_is_on_disk(tmp_path, disk):
    async with desk_of(tmp_path) as (peer, desk):
        sender = peer.sender("invoices")
        assert await peer.attached(sender) is None
        await peer.until(lambda: sender.credit)
        with disk():
            copies = []
            for _ in range(2):
                copies.append(peer.begin(sender))
                sender.send(proton.Message(id="twice").encode())
                sender.advance()
                await desk.is_read_this_far()
            assert not any(copy.settled for copy in copies)
        await peer.until(lambda: all(copy.settled for copy in copies))
        assert {copy.remote_state for copy in copies} == {proton.Delivery.ACCEPTED}


async def test_a_queue_is_made_changed_and_deleted_when_that_is_on_disk(tmp_path, disk):
    async with administered(data_dir=tmp_path) as (one, client):
        broker = one.emulator._broker
        queue = await client.get_queue("invoices")
        queue.max_delivery_count = 7
        for change, is_done in (
            (lambda: client.create_queue("new"), lambda: broker.find("new")),
            (
                lambda: client.update_queue(queue),
                lambda: broker.entity("invoices").config.max_delivery_count == 7,
            ),
            (lambda: client.delete_queue("new"), lambda: not broker.find("new")),
        ):
            with disk():
                answer = asyncio.ensure_future(change())
                await eventually(is_done)
                await client.get_namespace_properties()
                assert not answer.done()
            await answer
