"""Look at the messages of a queue or of its dead letters without a lock, a page at a time."""
# ruff: noqa: SLF001 - the SDK has no public door to a peeked message as it was encoded

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from azure.servicebus import ServiceBusSubQueue
from azure.servicebus._common import constants, mgmt_handlers

from bpa.connectors.service_bus.client import SOCKET_POLL_S, close, connect, opened, translated

PAGE = 250
"""Messages of one peek at most; the broker may return fewer."""
_PEEK_TIMEOUT_S = 15.0
_WITHOUT_BODIES = "omit-message-body"
_NOTHING_MORE = (202, 204)

T = TypeVar("T")
Read = Callable[[Any, Any], T]
"""Makes something of the SDK's receiver and of the broker's answer to one peek."""


class Peek(Protocol):
    """Asks for up to so many messages from a sequence number on (1 for the first)."""

    async def __call__(self, max_count: int, first: int, read: Read[list[T]]) -> list[T]:
        """Return what ``read`` makes of the answer; nothing when there are no more."""


@asynccontextmanager
async def peeking(
    connection_string: str,
    queue: str,
    sub_queue: ServiceBusSubQueue | None,
    *,
    with_bodies: bool = True,
) -> AsyncIterator[Peek]:
    """Connect to a queue; yields what peeks at it.

    Args:
        connection_string: Of the namespace or of the emulator.
        queue: The queue's name.
        sub_queue: Its dead letters, or None for the queue itself.
        with_bodies: Whether the messages are wanted whole; a broker may send them so anyway.

    Raises:
        NotFound: The queue does not exist.
        StartupError: The credentials are refused.
        Unavailable: The broker does not answer.
    """
    entity = f"dead-letter queue of {queue!r}" if sub_queue else f"queue {queue!r}"
    receiver = connect(connection_string).get_queue_receiver(
        queue, sub_queue=sub_queue, socket_timeout=SOCKET_POLL_S
    )
    open_receiver = await opened(receiver, entity)

    async def peek(max_count: int, first: int, read: Read[list[T]]) -> list[T]:
        try:
            async with asyncio.timeout(_PEEK_TIMEOUT_S):
                return await _page(receiver, max_count, first, read, with_bodies=with_bodies)
        except Exception as error:
            raise translated(error, entity) from error

    try:
        yield peek
    finally:
        await close(open_receiver)


def encoded_messages(answer: Any) -> Sequence[bytes]:
    """Return the messages of an answer as the broker keeps them, every AMQP type intact."""
    return [bytes(one[b"message"]) for one in answer.value[b"messages"]]


async def _page(
    receiver: Any, max_count: int, first: int, read: Read[list[T]], *, with_bodies: bool
) -> list[T]:
    """Peek as the SDK does, but leave to ``read`` what is made of the answer."""

    def answered(
        status: int, answer: Any, description: bytes | None, *, amqp_transport: Any
    ) -> list[T]:
        if status == 200:
            return read(receiver, answer)
        if status not in _NOTHING_MORE:
            refused: Any = mgmt_handlers.peek_op
            refused(status, answer, description, receiver, amqp_transport)
        return []

    request = {
        constants.MGMT_REQUEST_FROM_SEQUENCE_NUMBER: receiver._amqp_transport.AMQP_LONG_VALUE(
            first
        ),
        constants.MGMT_REQUEST_MAX_MESSAGE_COUNT: max_count,
    }
    if not with_bodies:
        request[_WITHOUT_BODIES] = True
    found: list[T] = await receiver._mgmt_request_response_with_retry(
        constants.REQUEST_RESPONSE_PEEK_OPERATION, request, answered
    )
    return found
