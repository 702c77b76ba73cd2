"""A Service Bus queue in the emulator, with what the tests of its connectors need around it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bpa.connectors import OutgoingMessage
from bpa.connectors.conformance import Buried
from bpa.connectors.service_bus import DeadLetterReader, ServiceBusPublisher, ServiceBusSource
from bpa.embedded.service_bus import (
    EmulatorOptions,
    NamespaceConfig,
    QueueConfig,
    ServiceBusEmulator,
)

QUEUE = "invoices"


def emulator(
    *, port: int = 0, data_dir: Path | None = None, lock_duration_s: float = 2.0
) -> ServiceBusEmulator:
    queue = QueueConfig(QUEUE, lock_duration_s=lock_duration_s, max_delivery_count=10)
    config = NamespaceConfig(queues=(queue,))
    return ServiceBusEmulator(
        EmulatorOptions(port=port, admin_port=None, data_dir=data_dir, config=config)
    )


@dataclass
class Queue:
    source: ServiceBusSource
    publisher: ServiceBusPublisher
    reader: DeadLetterReader
    emulator: ServiceBusEmulator

    async def publish(self, messages: Sequence[OutgoingMessage]) -> None:
        await self.publisher.send(messages)

    async def dead_letters(self) -> list[Buried]:
        return [
            Buried(letter.message.body, letter.reason, letter.description)
            for letter in await self.reader.peek(100)
        ]


@asynccontextmanager
async def open_queue(*, links: int = 2, lock_duration_s: float = 2.0) -> AsyncIterator[Queue]:
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(emulator(lock_duration_s=lock_duration_s))
        address = broker.connection_string
        source = ServiceBusSource(address, QUEUE, links=links)
        await source.open()
        stack.push_async_callback(source.aclose)
        publisher = await stack.enter_async_context(ServiceBusPublisher(address, QUEUE))
        yield Queue(source, publisher, DeadLetterReader(address, QUEUE), broker)
