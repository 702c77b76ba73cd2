"""azure-servicebus, blocking and async, behind one set of awaitable methods."""

import asyncio
import contextlib
import time
from types import SimpleNamespace
from unittest.mock import patch

from azure.servicebus import (
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusReceiveMode,
    ServiceBusSubQueue,
    _servicebus_receiver,
    _servicebus_sender,
)
from azure.servicebus._pyamqp.client import AMQPClient

from bpa.embedded.service_bus import ServiceBusEmulator
from tests.integration.embedded.service_bus import SOCKET_TIMEOUT_S, client_of, options_for

DEAD = ServiceBusSubQueue.DEAD_LETTER
DELETING = ServiceBusReceiveMode.RECEIVE_AND_DELETE

# In place of the SDK's pauses of 50 ms within its handshake.
_HURRIED = SimpleNamespace(**{**vars(time), "sleep": lambda _: None})


class _Awaitable:
    """A blocking object whose methods run in a thread."""

    def __init__(self, blocking):
        self._blocking = blocking

    def __getattr__(self, name):
        value = getattr(self._blocking, name)
        if not callable(value):
            return value

        async def call(*arguments, **options):
            return await asyncio.to_thread(value, *arguments, **options)

        return call


class Bus:
    """A running emulator, and a client of one kind."""

    def __init__(self, emulator, client, stack):
        self.emulator = emulator
        self._client = client
        self._stack = stack
        self._sender = None

    async def sender(self, queue="invoices"):
        return await self._opened(self._client.get_queue_sender(queue))

    async def receiver(self, queue="invoices", **options):
        options.setdefault("socket_timeout", SOCKET_TIMEOUT_S)
        return await self._opened(self._client.get_queue_receiver(queue, **options))

    async def _opened(self, handler):
        if isinstance(self._client, ServiceBusClient):
            handler = _Awaitable(handler)
            self._stack.push_async_callback(handler.close)
        else:
            await self._stack.enter_async_context(handler)
        return handler

    async def send(self, *bodies, **properties):
        """Send to ``invoices``, one message for each body."""
        if self._sender is None:
            self._sender = await self.sender()
        for body in bodies:
            await self._sender.send_messages(ServiceBusMessage(body, **properties))


@contextlib.asynccontextmanager
async def running(kind, *queues, **options):
    """Run an emulator and yield a ``Bus`` whose client is of the kind, ``async`` or ``sync``."""
    async with (
        ServiceBusEmulator(options_for(*queues, **options)) as emulator,
        _client(kind, emulator.connection_string) as client,
        contextlib.AsyncExitStack() as stack,
    ):
        yield Bus(emulator, client, stack)


@contextlib.asynccontextmanager
async def _client(kind, connection_string):
    if kind == "async":
        async with client_of(connection_string) as client:
            yield client
        return
    client = ServiceBusClient.from_connection_string(connection_string, retry_total=0)
    with (
        patch.object(AMQPClient, "_keep_alive", lambda _: None),  # its naps of 1 s hold up closes
        patch.object(_servicebus_sender, "time", _HURRIED),
        patch.object(_servicebus_receiver, "time", _HURRIED),
    ):
        try:
            yield client
        finally:
            await asyncio.to_thread(client.close)


async def next_message(receiver, wait_s=10):
    """The next message; fails when there is none."""
    messages = await receiver.receive_messages(1, max_wait_time=wait_s)
    assert messages, "no message came"
    return messages[0]


async def nothing_comes(receiver):
    """Whether nothing can be received."""
    return not await receiver.receive_messages(1, max_wait_time=0.1)


def body_of(message):
    return b"".join(message.body)
