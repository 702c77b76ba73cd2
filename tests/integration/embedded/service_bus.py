"""An emulator of the test's own, and the real SDK's clients for it."""

import asyncio
import contextlib
from dataclasses import dataclass
from types import SimpleNamespace
from unittest.mock import patch

import aiohttp
from azure.servicebus import ServiceBusMessage
from azure.servicebus._pyamqp.aio import AMQPClientAsync
from azure.servicebus.aio import (
    ServiceBusClient,
    _servicebus_receiver_async,
    _servicebus_sender_async,
)

from bpa.embedded.service_bus import (
    EmulatorOptions,
    NamespaceConfig,
    QueueConfig,
    ServiceBusEmulator,
)
from bpa.embedded.service_bus.broker import Broker

# Waits this long after a message came for the batch to fill; the SDK's default is 0.2 s.
SOCKET_TIMEOUT_S = 0.002


@dataclass(slots=True)
class Bus:
    """A running emulator and a client of it."""

    emulator: ServiceBusEmulator
    client: ServiceBusClient

    def sender(self, queue="invoices"):
        return self.client.get_queue_sender(queue)

    def receiver(self, queue="invoices", **options):
        return self.client.get_queue_receiver(queue, socket_timeout=SOCKET_TIMEOUT_S, **options)

    async def send(self, *bodies, queue="invoices", **properties):
        async with self.sender(queue) as sender:
            for body in bodies:
                await sender.send_messages(ServiceBusMessage(body, **properties))

    async def counts(self, queue="invoices"):
        url = f"http://127.0.0.1:{self.emulator.admin_port}/queues"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            entries = (await response.json())["queues"]
        found = next(entry for entry in entries if entry["name"] == queue)
        return found["active"], found["locked"], found["dead_lettered"]


def options_for(*queues, **options):
    """Options on free ports for the queues given."""
    if queues:
        options["config"] = NamespaceConfig(queues=queues)
    return EmulatorOptions(port=0, admin_port=0, **options)


@contextlib.asynccontextmanager
async def bus(*queues, **options):
    """Run an emulator with these queues (default: ``invoices``) and yield a ``Bus``."""
    async with (
        ServiceBusEmulator(options_for(*queues, **options)) as emulator,
        client_of(emulator.connection_string) as client,
    ):
        yield Bus(emulator, client)


async def at_once(_delay_s):
    """In place of the SDK's pause of 50 ms after each frame of its handshake (0.5 s a link)."""


async def keep_nothing_alive(_client):
    """In place of the SDK's keep-alive loop, whose naps of 1 s hold up every close."""


HURRIED = SimpleNamespace(**{**vars(asyncio), "sleep": at_once})


@contextlib.asynccontextmanager
async def client_of(connection_string, **options):
    """A client that does not hide failures behind retries, and opens and closes quickly."""
    client = ServiceBusClient.from_connection_string(connection_string, retry_total=0, **options)
    with (
        patch.object(AMQPClientAsync, "_keep_alive_async", keep_nothing_alive),
        patch.object(_servicebus_sender_async, "asyncio", HURRIED),
        patch.object(_servicebus_receiver_async, "asyncio", HURRIED),
    ):
        async with client:
            yield client


class Clock:
    """The broker's, which a test can put forward."""

    def __init__(self, monkeypatch):
        self._ahead_ms = 0
        now_ms = Broker.now_ms
        monkeypatch.setattr(Broker, "now_ms", staticmethod(lambda: now_ms() + self._ahead_ms))

    def forward(self, seconds):
        """Let time pass unnoticed."""
        self._ahead_ms += int(seconds * 1000)

    def pass_by(self, emulator, seconds):
        """Let time pass, and the emulator do what is due by then."""
        self.forward(seconds)
        for queue in emulator._broker.queues.values():
            queue.expire(Broker.now_ms())


def impatient(**changes):
    """The queue ``invoices`` with locks that end soon."""
    return QueueConfig("invoices", **{"lock_duration_s": 0.3, "max_delivery_count": 3, **changes})


async def receive_one(receiver, wait_s=5.0):
    """The next message; fails when there is none."""
    messages = await receiver.receive_messages(1, max_wait_time=wait_s)
    assert messages, "no message came"
    return messages[0]


async def is_empty(receiver):
    """Whether nothing more comes."""
    return not await receiver.receive_messages(1, max_wait_time=0.1)


def body_of(message):
    return b"".join(message.body)


async def settled(receiver, message, operation, **details):
    """Settle without the SDK's own look at its clock, which would refuse before asking."""
    async with asyncio.timeout(10):
        await receiver._settle_message(message, operation, **details)
