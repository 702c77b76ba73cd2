"""A queue's dead letters: look at them without a lock, or lock the chosen ones to settle them.

The broker hands out dead letters in order and none by its number (only deferred messages can be
had so). To get at one, those before it are locked as well and given back afterwards; that costs
time, but never a message: in a dead-letter queue a delivery counts for nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import structlog
from azure.servicebus import ServiceBusReceivedMessage, ServiceBusSubQueue

from bpa.connectors.sdk import Message, SettlementLost
from bpa.connectors.service_bus.messages import as_message
from bpa.connectors.service_bus.peeking import PAGE, encoded_messages, peeking
from bpa.connectors.service_bus.replayed import DESCRIPTION, REASON
from bpa.connectors.service_bus.source import ServiceBusSource
from bpa.errors import Unavailable

DEAD_LETTER_SUFFIX = "/$deadletterqueue"
HELD_AT_MOST = 5_000
"""Dead letters locked on the way to the wanted ones: a deeper one is out of reach."""
HELD_BYTES_AT_MOST = 64 * 1024 * 1024
_ARRIVAL_WAIT_S = 2.0
_PARTITION_SHIFT = 48
"""A partitioned queue keeps the partition above these bits of a sequence number, and order only
within one."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead-lettered message; peeked, hence without a receipt."""

    message: Message
    reason: str
    """The closed set of ``bpa.errors.Reason``, or one of the broker's own."""
    description: str
    encoded: bytes = field(repr=False)
    """The message as the broker keeps it, every AMQP type intact."""


Peek = Callable[[int, int], Awaitable[list[DeadLetter]]]
"""Returns up to so many letters, ``PAGE`` at most, from a sequence number on (1 for the first)."""


class DeadLetterReader:
    """Peek at ``<queue>/$deadletterqueue``.

    Args:
        connection_string: Of the namespace or of the emulator.
        queue: The queue's name.
    """

    def __init__(self, connection_string: str, queue: str) -> None:
        self._connection_string = connection_string
        self._queue = queue

    async def peek(self, max_count: int, *, from_sequence_number: int = 0) -> list[DeadLetter]:
        """Return up to ``max_count`` dead letters, oldest first, from a sequence number on.

        The broker may return fewer than there are in one answer; it is asked until it has no more.

        Raises:
            NotFound: The queue does not exist.
            Unavailable: The broker does not answer.
        """
        letters: list[DeadLetter] = []
        async with aclosing(self.pages(max_count, from_sequence_number)) as pages:
            async for page in pages:
                letters += page
                if len(letters) >= max_count:
                    break
        return letters[:max_count]

    async def find(self, sequence_numbers: Collection[int]) -> dict[int, DeadLetter]:
        """Return the dead letters of these sequence numbers, by them; raises as `peek`."""
        wanted = sorted(sequence_numbers)
        found: dict[int, DeadLetter] = {}
        async with self.peeking() as peek:
            while wanted:
                page = await peek(min(len(wanted), PAGE), wanted[0])
                if not page:
                    break
                numbers = {letter.message.sequence_number: letter for letter in page}
                found |= {number: numbers[number] for number in wanted if number in numbers}
                wanted = [number for number in wanted if number > max(numbers)]
        return found

    async def pages(
        self, size: int = PAGE, from_sequence_number: int = 0
    ) -> AsyncGenerator[list[DeadLetter], None]:
        """Go through the dead letters, oldest first, a page at a time over one connection.

        Close the generator that it returns; raises as `peek`.
        """
        following = from_sequence_number or 1  # 0 would mean "where the last peek ended"
        async with self.peeking() as peek:
            while page := await peek(min(size, PAGE), following):
                following = page[-1].message.sequence_number + 1
                yield page

    async def oldest_waiting(self) -> int | None:
        """Return the lowest number of what is in the queue itself, locked, deferred or not.

        None when it is empty. Raises as `peek`.
        """
        async with self._peeking(None) as peek:
            first = await peek(1, 1)
        return first[0].message.sequence_number if first else None

    def peeking(self) -> AbstractAsyncContextManager[Peek]:
        """Connect to the dead letters; yields what peeks at them, and raises as `peek`."""
        return self._peeking(ServiceBusSubQueue.DEAD_LETTER)

    @asynccontextmanager
    async def _peeking(self, sub_queue: ServiceBusSubQueue | None) -> AsyncIterator[Peek]:
        async with peeking(self._connection_string, self._queue, sub_queue) as ask:

            async def peek(max_count: int, first: int) -> list[DeadLetter]:
                return await ask(max_count, first, _dead_letters)

            yield peek


class DeadLetterLocks:
    """Lock chosen dead letters of one queue; a context manager that gives back what it still holds.

    Args:
        connection_string: Of the namespace or of the emulator.
        queue: The queue's name.
    """

    def __init__(self, connection_string: str, queue: str) -> None:
        self._source = ServiceBusSource(connection_string, queue + DEAD_LETTER_SUFFIX, links=1)
        self._held: dict[int, Message] = {}
        self._held_bytes = 0
        self._passed: dict[int, int] = {}

    async def __aenter__(self) -> Self:
        """Connect; raises as ``Source.open``."""
        await self._source.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            for message in self._held.values():
                await self.give_back(message)
        finally:
            await self._source.aclose()

    async def next_of(self, wanted: Collection[int]) -> Message | None:
        """Return the next dead letter whose sequence number is wanted, locked.

        None means that no more of them can be had now: they are gone, somebody else has them
        locked, or they lie too deep (``HELD_AT_MOST``, or deeper than locks last).

        Raises:
            Unavailable: The broker stayed out of reach.
        """
        while self._may_come(wanted):
            message = await self._source.receive(_ARRIVAL_WAIT_S)
            if message is None:
                return None
            number = message.sequence_number
            partition = number >> _PARTITION_SHIFT
            self._passed[partition] = max(number, self._passed.get(partition, 0))
            if number in wanted:
                return message
            came_again = number in self._held
            self._held[number] = message
            self._held_bytes += len(message.body)
            if came_again:  # locks run out faster than we get on
                return None
        return None

    async def complete(self, message: Message) -> None:
        """Remove the dead letter; raises as ``Source.complete``."""
        await self._source.complete(message)

    async def give_back(self, message: Message) -> None:
        """Unlock a dead letter that stays."""
        try:
            await self._source.abandon(message)
        except (SettlementLost, Unavailable) as error:  # its lock runs out by itself
            _log.info("dead_letter_not_given_back", error=str(error))

    def _may_come(self, wanted: Collection[int]) -> bool:
        has_room = len(self._held) < HELD_AT_MOST and self._held_bytes < HELD_BYTES_AT_MOST
        return has_room and any(n > self._passed.get(n >> _PARTITION_SHIFT, 0) for n in wanted)


def _dead_letters(receiver: Any, answer: Any) -> list[DeadLetter]:
    decoded = receiver._amqp_transport.parse_received_message(  # noqa: SLF001 - as the SDK's peek
        answer, message_type=ServiceBusReceivedMessage, receiver=receiver, is_peeked_message=True
    )
    return [
        _dead_letter(message, encoded)
        for message, encoded in zip(decoded, encoded_messages(answer), strict=True)
    ]


def _dead_letter(received: ServiceBusReceivedMessage, encoded: bytes) -> DeadLetter:
    message = as_message(received, None)
    return DeadLetter(
        message=message,
        reason=str(message.properties.get(REASON, "")),
        description=str(message.properties.get(DESCRIPTION, "")),
        encoded=encoded,
    )
