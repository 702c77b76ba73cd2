"""Look at a queue's dead letters without taking them."""

from __future__ import annotations

from dataclasses import dataclass

from azure.servicebus import ServiceBusReceivedMessage, ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusReceiver

from bpa.connectors.sdk import Message
from bpa.connectors.service_bus.client import SOCKET_POLL_S, close, connect, opened, translated
from bpa.connectors.service_bus.messages import as_message


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead-lettered message; peeked, hence without a receipt."""

    message: Message
    reason: str
    """The closed set of ``bpa.errors.Reason``, or one of the broker's own."""
    description: str


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
        entity = f"dead-letter queue of {self._queue!r}"
        receiver = connect(self._connection_string).get_queue_receiver(
            self._queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER, socket_timeout=SOCKET_POLL_S
        )
        open_receiver = await opened(receiver, entity)
        try:
            return await _peek(receiver, max_count, from_sequence_number)
        except Exception as error:
            raise translated(error, entity) from error
        finally:
            await close(open_receiver)


async def _peek(receiver: ServiceBusReceiver, max_count: int, first: int) -> list[DeadLetter]:
    letters: list[DeadLetter] = []
    following = first or 1  # numbers start at 1; 0 would mean "where the last peek ended"
    while len(letters) < max_count:
        page = await receiver.peek_messages(max_count - len(letters), sequence_number=following)
        if not page:
            break
        letters.extend(_dead_letter(received) for received in page)
        following = letters[-1].message.sequence_number + 1
    return letters


def _dead_letter(received: ServiceBusReceivedMessage) -> DeadLetter:
    message = as_message(received, None)
    return DeadLetter(
        message=message,
        reason=str(message.properties.get("DeadLetterReason", "")),
        description=str(message.properties.get("DeadLetterErrorDescription", "")),
    )
