"""A Service Bus queue as a `Source`.

Several links, each with its own connection, take turns: a settlement on one link waits for the
broker's answer on that link only, so one slow answer does not hold up the next receive.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime

import structlog
from azure.servicebus.aio import ServiceBusReceiver

from bpa.connectors.sdk import Message
from bpa.connectors.service_bus.client import connect
from bpa.connectors.service_bus.link import Receipt, ReceiverLink
from bpa.connectors.service_bus.messages import as_message
from bpa.errors import Unavailable
from bpa.retry import RetryPolicy, pause_s

REASON_MAX_CHARS = 4096
"""Some SDKs cut a dead letter's reason and description there; we do it everywhere."""

RECONNECT = RetryPolicy(base_s=0.1, cap_s=5.0)

_log = structlog.get_logger(__name__)


class ServiceBusSource:
    """A queue read in peek-lock, one message a call and nothing prefetched.

    Args:
        connection_string: Of the namespace or of the emulator.
        queue: The queue's name.
        links: Connections, which is also how many ``receive`` calls wait at the broker at once;
            further calls wait here.
        draw: Draws the jitter of reconnects from [0, 1).
    """

    def __init__(
        self,
        connection_string: str,
        queue: str,
        *,
        links: int = 2,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._connection_string = connection_string
        self._queue = queue
        self._links_count = links
        self._draw = draw
        self._free: deque[ReceiverLink] = deque()
        self._links: list[ReceiverLink] = []
        self._room = asyncio.Semaphore(links)
        self._failures = 0

    async def open(self) -> None:
        """Connect every link; raises as ``Source.open``."""
        client = connect(self._connection_string)
        self._links = [ReceiverLink(client, self._queue) for _ in range(self._links_count)]
        self._free = deque(self._links)
        opened = await asyncio.gather(
            *(link.open() for link in self._links), return_exceptions=True
        )
        failures = [outcome for outcome in opened if isinstance(outcome, BaseException)]
        if failures:
            await self.aclose()
            raise failures[0]

    async def receive(self, max_wait_s: float) -> Message | None:
        """Wait for one message; as ``Source.receive``."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + max_wait_s
        if not await self._got_room(max_wait_s):
            return None
        link = self._free.popleft()
        failure: Unavailable | None = None
        try:
            while True:
                try:
                    received = await link.receive(deadline_s)
                    break
                except Unavailable as error:
                    failure = error
                    await self._before_reconnecting(error, deadline_s)
        finally:
            self._free.append(link)
            self._room.release()
        if received is not None:
            self._failures = 0
            return as_message(*received)
        if failure is not None and not link.is_open:
            raise failure
        return None

    async def complete(self, message: Message) -> None:
        """Remove the message; as ``Source.complete``."""
        await self._settle(message, ServiceBusReceiver.complete_message)

    async def abandon(self, message: Message) -> None:
        """Unlock the message; as ``Source.abandon``."""
        await self._settle(message, ServiceBusReceiver.abandon_message)

    async def dead_letter(self, message: Message, reason: str, description: str) -> None:
        """Move the message to ``<queue>/$deadletterqueue``; as ``Source.dead_letter``."""
        receipt = _receipt(message)
        await receipt.link.settle(
            receipt,
            lambda receiver: receiver.dead_letter_message(
                receipt.received,
                reason=reason[:REASON_MAX_CHARS],
                error_description=description[:REASON_MAX_CHARS],
            ),
        )

    async def renew(self, message: Message) -> datetime:
        """Extend the lock; as ``Source.renew``."""
        receipt = _receipt(message)
        return await receipt.link.renew(receipt)

    async def aclose(self) -> None:
        """Disconnect every link."""
        await asyncio.gather(*(link.aclose() for link in self._links))

    async def _settle(
        self,
        message: Message,
        call: Callable[..., Awaitable[None]],
    ) -> None:
        receipt = _receipt(message)
        await receipt.link.settle(receipt, lambda receiver: call(receiver, receipt.received))

    async def _got_room(self, max_wait_s: float) -> bool:
        try:
            async with asyncio.timeout(max_wait_s):
                await self._room.acquire()
        except TimeoutError:
            return False
        return True

    async def _before_reconnecting(self, error: Unavailable, deadline_s: float) -> None:
        """Pause with backoff; raise ``error`` when the caller's time is over first."""
        self._failures += 1
        pause = pause_s(RECONNECT, self._failures, self._draw())
        left_s = deadline_s - asyncio.get_running_loop().time()
        _log.warning(
            "service_bus_unavailable", queue=self._queue, error=str(error), failures=self._failures
        )
        await asyncio.sleep(max(0.0, min(pause, left_s)))
        if pause >= left_s:
            raise error


def _receipt(message: Message) -> Receipt:
    if not isinstance(message.receipt, Receipt):
        raise TypeError("this message was not received from a Service Bus queue")
    return message.receipt
