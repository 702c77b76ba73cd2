"""One SDK receiver, whose calls must not overlap, shared by everybody who needs it.

The SDK's receiver reads its socket inside whichever call is running, and holds the socket while it
does: a settlement issued during a receive waits until that receive's read times out, and two calls
at once corrupt each other. Polling at 1 ms hides the first and costs CPU. Here calls take turns,
and a settlement or renewal interrupts a receive that is only waiting:

- The interruption cancels the receive inside its socket read, where nothing is consumed yet
  (asyncio's stream keeps its buffer), so it loses no frame; a frame already read is returned.
- The SDK releases a message that arrives while no receive runs. `_Gate` tells it instead whether
  somebody *wants* a message: one that arrives during the settlement is kept for the receive that
  goes on right after it, and one that nobody wants any more is released at once.
- Credit is one message, and is withdrawn when a receive ends empty-handed; if a settlement has the
  turn then, once that is done. What came for it and lay unread would hold a lock that runs out.
  It is out until the broker has said so or used it: the SDK's own drain goes by silence, and stops
  reading after 40 ms, with a slower broker's message still on its way.

A link that fails is closed and counts a generation up: what was received before is then lost to
us (only the link that received a message may settle it) and is delivered again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import structlog
from azure.servicebus import ServiceBusReceivedMessage, ServiceBusReceiveMode
from azure.servicebus._pyamqp.constants import LinkState
from azure.servicebus._pyamqp.performatives import FlowFrame
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver

from bpa.cancellation import cancellation_delivered
from bpa.connectors.sdk import SettlementLost
from bpa.connectors.service_bus.client import (
    CLOSE_TIMEOUT_S,
    SOCKET_POLL_S,
    Opened,
    close,
    leaves_the_link_up,
    opened,
    translated,
)
from bpa.errors import Unavailable

CALL_TIMEOUT_S = 15.0
"""The limit of a settlement or a renewal."""

T = TypeVar("T")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where a message came from, and the SDK's own record of it."""

    link: ReceiverLink
    generation: int
    received: ServiceBusReceivedMessage


class _Gate(asyncio.Event):
    """Stands in for the event by which the SDK's receiver knows that a receive is running."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted = False

    def set(self) -> None:
        """Ignore the SDK: only ``wanted`` counts."""

    def clear(self) -> None:
        """Ignore the SDK: only ``wanted`` counts."""

    def is_set(self) -> bool:
        return self.wanted


class ReceiverLink:
    """A receiver that reconnects and lets one receive and many settlements share it.

    Args:
        client: The namespace.
        queue: The queue's name.
    """

    def __init__(self, client: ServiceBusClient, queue: str) -> None:
        self._client = client
        self._queue = queue
        self._entity = f"queue {queue!r}"
        self._current: Opened[ServiceBusReceiver] | None = None
        self._generation = 0
        self._turn = asyncio.Lock()
        self._gate = _Gate()
        self._waiting: asyncio.Timeout | None = None
        self._urgent = 0
        self._credit_is_out = False
        """Whether a message may come, or have come, that no receive waits for any more."""
        self._closed = False

    @property
    def is_open(self) -> bool:
        """Whether the receiver was connected when it was last used."""
        return self._current is not None

    async def open(self) -> None:
        """Connect unless connected; raises as ``Source.open``."""
        async with self._turn:
            await self._opened()

    async def receive(self, deadline_s: float) -> tuple[ServiceBusReceivedMessage, Receipt] | None:
        """Wait for one message until ``deadline_s`` on the loop's clock; one call at a time."""
        self._gate.wanted = True
        received = None
        try:
            while received is None:
                async with self._turn:
                    left_s = deadline_s - asyncio.get_running_loop().time()
                    if left_s <= 0 or self._closed:
                        return None
                    with cancellation_delivered():
                        receiver = await self._opened()
                        received = await self._received(receiver, left_s)
                    receipt_generation = self._generation
        finally:
            self._gate.wanted = False
            if received is None:
                await self._withdraw_credit()
        return received, Receipt(self, receipt_generation, received)

    async def settle(
        self, receipt: Receipt, call: Callable[[ServiceBusReceiver], Awaitable[None]]
    ) -> None:
        """Run one of the SDK's settlement calls; raises as ``Source.complete``."""
        await self._urgently(receipt, call)

    async def renew(self, receipt: Receipt) -> datetime:
        """Extend the lock; raises as ``Source.renew``."""
        return await self._urgently(
            receipt, lambda receiver: receiver.renew_message_lock(receipt.received)
        )

    async def aclose(self) -> None:
        """Disconnect for good; a receive that waits returns None, locks run out at the broker."""
        self._closed = True
        async with self._urgent_turn():
            await self._drop()

    async def _urgently(
        self, receipt: Receipt, call: Callable[[ServiceBusReceiver], Awaitable[T]]
    ) -> T:
        """Run ``call`` on the receiver ahead of a waiting receive."""
        async with self._urgent_turn():
            receiver = self._current
            if receiver is None or receipt.generation != self._generation:
                raise SettlementLost(
                    f"the link to {self._entity} that received the message is gone: "
                    "the message comes again"
                )
            try:
                with cancellation_delivered():
                    async with asyncio.timeout(CALL_TIMEOUT_S):
                        return await call(receiver.handler)
            except Exception as error:
                cause = translated(error, self._entity)
                if isinstance(cause, SettlementLost) or leaves_the_link_up(error):
                    raise cause from error
                await self._drop()
                raise SettlementLost(f"{cause}: the message comes again") from error

    @contextlib.asynccontextmanager
    async def _urgent_turn(self) -> AsyncIterator[None]:
        self._urgent += 1
        self._interrupt()
        try:
            async with self._turn:
                yield
        finally:
            self._urgent -= 1
            if self._credit_is_out and not (self._gate.wanted or self._urgent):
                await self._withdraw_credit()

    def _interrupt(self) -> None:
        """End the wait of a receive or a withdrawal, if one is waiting."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.expired():
            waiting.reschedule(asyncio.get_running_loop().time())

    async def _opened(self) -> ServiceBusReceiver:
        """Return the open receiver, connecting first when there is none."""
        if self._current is not None:
            return self._current.handler
        receiver = self._client.get_queue_receiver(
            self._queue,
            receive_mode=ServiceBusReceiveMode.PEEK_LOCK,
            prefetch_count=0,
            socket_timeout=SOCKET_POLL_S,
        )
        receiver._receive_context = self._gate  # noqa: SLF001 - see the module's docstring
        with cancellation_delivered():
            self._current = await opened(receiver, self._entity)
            _heed_drains(receiver)
            self._generation += 1
        return receiver

    async def _received(
        self, receiver: ServiceBusReceiver, left_s: float
    ) -> ServiceBusReceivedMessage | None:
        """Return a message, or None when the time is over or somebody interrupts."""
        if self._urgent:
            return None
        task = asyncio.current_task()
        cancels_before = task.cancelling() if task else 0
        batch: list[ServiceBusReceivedMessage] = []
        try:
            async with self._interruptible(left_s):
                self._credit_is_out = True
                batch = await receiver.receive_messages(1, max_wait_time=left_s)
        except Exception as error:
            if not leaves_the_link_up(error):
                await self._drop()
            raise translated(error, self._entity) from error
        if not batch and self._current and self._current.is_broken:
            # The wait was over while the SDK was still busy with a failure.
            await self._drop()
            raise Unavailable(f"the connection to {self._entity} was lost")
        if batch and task is not None and task.cancelling() > cancels_before:
            # The SDK swallowed a cancellation (see ``cancellation``): nobody takes the message.
            await self._drop_unless(_released(receiver, batch[0]))
            raise asyncio.CancelledError
        self._credit_is_out = not batch
        return batch[0] if batch else None

    @contextlib.asynccontextmanager
    async def _interruptible(self, limit_s: float) -> AsyncIterator[asyncio.Timeout]:
        """Run the body until ``limit_s`` or ``_interrupt``, whichever comes first."""
        scope = asyncio.timeout(limit_s)
        try:
            async with scope:
                self._waiting = scope
                try:
                    yield scope
                finally:
                    self._waiting = None
        except TimeoutError:
            if not scope.expired():
                raise

    async def _withdraw_credit(self) -> None:
        """Take the credit back after a receive without a message, and release what slipped in.

        A settlement that waits for its turn goes first, and withdraws it when it is done.
        """
        async with self._turn:
            receiver = self._current
            if receiver is None or receiver.is_broken:
                self._credit_is_out = False  # it went with the connection
                return
            if self._gate.wanted or self._urgent:
                return
            with cancellation_delivered():
                async with self._interruptible(CLOSE_TIMEOUT_S) as limit:
                    await self._drop_unless(_drained(receiver.handler))
            self._credit_is_out = limit.expired() and self._current is not None

    async def _drop_unless(self, call: Awaitable[None]) -> None:
        """Await ``call``; when it fails, close the receiver, which frees its messages as well."""
        try:
            await call
        except Exception as error:  # noqa: BLE001 - the SDK raises anything; the remedy is the same
            _log.info("service_bus_link_dropped", entity=self._entity, error=repr(error))
            await self._drop()

    async def _drop(self) -> None:
        """Close the receiver; its messages are no longer ours to settle."""
        receiver, self._current = self._current, None
        if receiver is not None:
            await close(receiver)


def _heed_drains(receiver: Any) -> None:
    """Have the SDK's link hear how much credit a drain took back; it does not listen."""
    link = receiver._handler._link  # noqa: SLF001

    async def heard(frame: Any) -> None:
        flow = FlowFrame(*frame)
        if flow.delivery_count is not None and (flow.drain or flow.link_credit == 0):
            link.current_link_credit -= flow.delivery_count - link.delivery_count
            link.delivery_count = flow.delivery_count

    link._incoming_flow = heard  # noqa: SLF001


async def _drained(receiver: Any) -> None:
    """Have the broker use the credit or give it back, and release what it used it for."""
    amqp = receiver._handler  # noqa: SLF001
    link = amqp._link  # noqa: SLF001
    if link.current_link_credit > 0:
        await link.flow(link_credit=link.current_link_credit, drain=True)
    while link.current_link_credit > 0 and link.state is LinkState.ATTACHED:
        await amqp._connection.listen(wait=SOCKET_POLL_S)  # noqa: SLF001
        await asyncio.sleep(0)  # a connection that is closing is not waited for
    await receiver._amqp_transport.drain_and_release_messages_async(amqp)  # noqa: SLF001


async def _released(receiver: Any, message: Any) -> None:
    """Give a message back that nobody saw; abandoning would count a delivery."""
    await receiver._handler.settle_messages_async(  # noqa: SLF001 - the SDK releases on close only
        message._delivery_id,  # noqa: SLF001
        message._delivery_tag,  # noqa: SLF001
        "released",
    )
