"""A queue in the emulator with its administration, and readers of what waits there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver

from bpa.connectors.service_bus import Administration, BacklogReader
from bpa.embedded.service_bus import (
    EmulatorOptions,
    NamespaceConfig,
    QueueConfig,
    ServiceBusEmulator,
)
from tests.integration.embedded.service_bus import SOCKET_TIMEOUT_S, client_of

QUEUE = "invoices"
KEY = "SharedAccessKeyName=n;SharedAccessKey=k"
EXPIRED = "SharedAccessSignature=SharedAccessSignature sr=x&sig=y&se=1"


@dataclass
class Bus:
    emulator: ServiceBusEmulator
    client: ServiceBusClient

    def reader(self, credential: str = KEY, *, port: int | None = None) -> BacklogReader:
        port = port or self.emulator.admin_tls_port
        administration = Administration(
            f"Endpoint=sb://localhost:{port};{credential}", str(self.emulator.certificate)
        )
        return BacklogReader(self.emulator.connection_string, administration)

    def peeker(self) -> BacklogReader:
        return BacklogReader(self.emulator.connection_string, None)

    async def send(self, count: int, **fields: object) -> None:
        async with self.client.get_queue_sender(QUEUE) as sender:
            await sender.send_messages([ServiceBusMessage(b"x" * 100, **fields)] * count)

    def receiver(self) -> ServiceBusReceiver:
        return self.client.get_queue_receiver(QUEUE, socket_timeout=SOCKET_TIMEOUT_S)

    async def one_of_each(self) -> None:
        """Leave a deferred, a scheduled, a locked, a free and a dead-lettered message, in order."""
        await self.send(1)
        async with self.receiver() as receiver:
            (first,) = await receiver.receive_messages(1)
            await receiver.defer_message(first)
            await self.send(1, scheduled_enqueue_time_utc=datetime.now(UTC) + timedelta(hours=1))
            await self.send(3)
            (second,) = await receiver.receive_messages(1)
            await receiver.dead_letter_message(second)


@asynccontextmanager
async def bus(max_delivery_count: int = 10) -> AsyncIterator[Bus]:
    queue = QueueConfig(QUEUE, max_delivery_count=max_delivery_count)
    options = EmulatorOptions(
        port=0, admin_port=None, admin_tls_port=0, config=NamespaceConfig(queues=(queue,))
    )
    async with (
        ServiceBusEmulator(options) as emulator,
        client_of(emulator.connection_string) as client,
    ):
        yield Bus(emulator, client)


@asynccontextmanager
async def closing(reader: BacklogReader) -> AsyncIterator[BacklogReader]:
    try:
        yield reader
    finally:
        await reader.aclose()
