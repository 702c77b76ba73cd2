"""Publish messages to a Service Bus queue, in batches."""
# ruff: noqa: SLF001 - the SDK takes no encoded message through a public door

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Self

from azure.servicebus import (
    ServiceBusMessage,
    ServiceBusMessageBatch,
    ServiceBusReceivedMessage,
)
from azure.servicebus.aio import ServiceBusSender
from azure.servicebus.exceptions import MessageSizeExceededError

from bpa.connectors.sdk import OutgoingMessage
from bpa.connectors.service_bus.client import (
    SOCKET_POLL_S,
    Opened,
    close,
    connect,
    opened,
    translated,
)
from bpa.connectors.service_bus.messages import as_sdk_message
from bpa.errors import InvalidRequest

BATCH_BYTES = 192 * 1024
"""The size of a batch as the SDK counts it: below the standard tier's 256 KiB by more than the
envelopes of the many small messages in it, which it counts too low."""
_DATA_SECTIONS = 5
"""Where the SDK's own form of a message keeps them."""


class ServiceBusPublisher:
    """A sender to one queue; open it, send, close it, or use it as a context manager.

    Args:
        connection_string: Of the namespace or of the emulator.
        queue: The queue's name.
    """

    def __init__(self, connection_string: str, queue: str) -> None:
        self._connection_string = connection_string
        self._entity = f"queue {queue!r}"
        self._queue = queue
        self._current: Opened[ServiceBusSender] | None = None
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Connect; raises as ``Source.open``."""
        async with self._turn:
            await self._opened()

    async def too_large(self, messages: Sequence[OutgoingMessage]) -> dict[int, str]:
        """Return why the queue would refuse messages for their size, by their place in the row.

        Raises:
            As `open`.
        """
        async with self._turn:
            sender = await self._opened()
            most = sender._max_message_size_on_link
            sizes = ((place, _encoded_bytes(sender, one)) for place, one in enumerate(messages))
            return {
                place: f"{size:,} bytes as a message, and {self._entity} takes {most:,}"
                for place, size in sizes
                if size > most
            }

    async def send(
        self,
        messages: Sequence[OutgoingMessage],
        accepted: Callable[[int], object] = lambda _: None,
    ) -> None:
        """Publish all messages; returns when the broker has accepted them.

        ``accepted`` is told after each batch how many of them, from the first on, are in the queue.

        When it raises, batches before the failed one are in the queue, and the failed one may be:
        give messages an id and the queue duplicate detection where sending again must not double.

        Raises:
            InvalidRequest: One message alone is larger than the queue takes.
            NotFound: The queue does not exist.
            Unavailable: The broker does not answer; the next ``send`` connects anew.
        """
        async with self._turn:
            sender = await self._opened()
            try:
                done = 0
                async for part, count in _parts(sender, messages):
                    await sender.send_messages(part)
                    done += count
                    accepted(done)
            except Exception as error:
                cause = translated(error, self._entity)
                if not isinstance(cause, InvalidRequest):
                    await self._close()
                raise cause from error

    async def send_encoded(self, encoded: bytes) -> None:
        """Publish one message that is encoded already, every AMQP type as it stands.

        It travels as a batch of one, which is how the protocol carries encoded messages.

        Raises:
            As `send`.
        """
        async with self._turn:
            sender = await self._opened()
            try:
                await sender.send_messages(await _batch_of(sender, encoded))
            except Exception as error:
                cause = translated(error, self._entity)
                if not isinstance(cause, InvalidRequest):
                    await self._close()
                raise cause from error

    async def aclose(self) -> None:
        """Disconnect."""
        async with self._turn:
            await self._close()

    async def _opened(self) -> ServiceBusSender:
        if self._current is not None:
            return self._current.handler
        client = connect(self._connection_string)
        sender = client.get_queue_sender(self._queue, socket_timeout=SOCKET_POLL_S)
        self._current = await opened(sender, self._entity)
        return sender

    async def _close(self) -> None:
        sender, self._current = self._current, None
        if sender is not None:
            await close(sender)


async def _parts(
    sender: ServiceBusSender, messages: Sequence[OutgoingMessage]
) -> AsyncIterator[tuple[ServiceBusMessageBatch | ServiceBusMessage, int]]:
    """Yield what to send one after the other, and how many messages it holds."""
    batch = await sender.create_message_batch(BATCH_BYTES)
    for message in messages:
        prepared = as_sdk_message(message)
        if _took(batch, prepared):
            continue
        if len(batch):
            yield batch, len(batch)
            batch = await sender.create_message_batch(BATCH_BYTES)
            if _took(batch, prepared):
                continue
        yield prepared, 1  # too large for a batch, perhaps not for the queue
    if len(batch):
        yield batch, len(batch)


def _took(batch: ServiceBusMessageBatch, prepared: ServiceBusMessage) -> bool:
    try:
        batch.add_message(prepared)
    except MessageSizeExceededError:
        return False
    return True


def _encoded_bytes(sender: ServiceBusSender, message: OutgoingMessage) -> int:
    """Return the size that the broker counts: the message as it travels alone."""
    amqp: Any = sender._amqp_transport
    prepared = as_sdk_message(message)
    return int(
        amqp.get_message_encoded_size(amqp.to_outgoing_amqp_message(prepared.raw_amqp_message))
    )


async def _batch_of(sender: ServiceBusSender, encoded: bytes) -> ServiceBusMessageBatch:
    """Return a batch that holds one encoded message, its envelope as the SDK writes it."""
    batch = await sender.create_message_batch()
    message = ServiceBusReceivedMessage.from_bytes(encoded)
    inside: Any = batch
    inside._message[_DATA_SECTIONS].append(encoded)
    inside._count = 1
    inside._amqp_transport.set_batch_envelope_properties(
        inside._message, message.message_id, message.session_id, message.partition_key
    )
    return batch
