"""The links that carry messages: one brings them to a queue, the other takes them from one.

Each holds a C pointer to its link, and pointers to deliveries that die with it; ``alive`` turns
false before they do, and everything that waited for the journal looks at it first.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

import proton

from bpa.amqp import MalformedMessage

from . import conditions, deliveries, engine
from .broker import Broker
from .content import DEAD_LETTER_DESCRIPTION, DEAD_LETTER_REASON, read_batch, read_content
from .inbox import CREDIT, Inbox
from .message import Accepted, Lock, Message
from .queue import Queue
from .refusals import MessageTooLarge, Refused
from .status import check_sends

_PRE_SETTLED_TAG_BYTES = 16
_BATCH_LIMIT = proton.symbol("com.microsoft:max-message-batch-size")
"""Where the SDKs look for the size of a batch before they take a message's (azure-sdk-for-net
57941; those for Go, Python and JavaScript test it alike): a large message makes no large batch."""


class LinkOwner(Protocol):
    """What a link needs of its connection."""

    @property
    def paused(self) -> bool:
        """Whether the peer reads too slowly to be sent more."""

    @property
    def feeding_batch(self) -> bool:
        """Whether the bytes being taken in begin a batch."""

    def wake(self) -> None:
        """Send what the engine has, at the end of this round."""

    def sent(self, size: int) -> None:
        """Count bytes of messages given to the engine, and have them sent."""


class LinkHandler(Protocol):
    """One attached link."""

    def on_flow(self) -> None:
        """The peer has changed the credit."""

    def on_delivery(self, delivery: Any) -> None:
        """A delivery has come or changed."""

    def on_resumed(self) -> None:
        """The peer reads again."""

    def on_closed(self) -> None:
        """The link is about to be freed."""


class IncomingLink:
    """A sender's link to a queue."""

    def __init__(self, owner: LinkOwner, link: Any, broker: Broker, queue: Queue) -> None:
        check_sends(queue.status, queue.path)
        self._owner = owner
        self._link = link
        self._broker = broker
        self._queue = queue
        self._alive = True
        self._inbox = Inbox(owner, link)
        engine.accept_link(
            link,
            max_message_bytes=self._message_bytes,
            properties={_BATCH_LIMIT: proton.ulong(broker.tier.batch_bytes)},
        )
        engine.grant(link, CREDIT)

    @property
    def _message_bytes(self) -> int:
        return self._broker.tier.message_bytes(self._queue.config)

    def on_flow(self) -> None:
        """Ignore the peer's hint of what it has."""

    def on_delivery(self, delivery: Any) -> None:
        """Put a whole message, or a batch of them, on the queue."""
        if not self._alive:
            self._inbox.drop(delivery)
            return
        limit = self._message_bytes
        encoded = self._inbox.take(delivery, limit)
        if encoded is None:
            return
        if deliveries.aborted(delivery):
            deliveries.forget(delivery)
            return
        if self._inbox.is_batch:
            limit = min(limit, self._broker.tier.batch_bytes)
        if len(encoded) > limit:
            refusal = MessageTooLarge(limit)
            deliveries.reject(delivery, refusal.condition, str(refusal))
            return
        now_ms = self._broker.now_ms()
        try:
            contents = read_batch(encoded) if self._inbox.is_batch else [read_content(encoded)]
        except MalformedMessage as error:
            deliveries.reject(delivery, conditions.DECODE_ERROR, str(error))
            return
        try:
            accepted = self._queue.enqueue(contents, now_ms)
        except Refused as refusal:
            deliveries.reject(delivery, refusal.condition, str(refusal))
            return
        self._broker.journal.when_durable(partial(self._accept, delivery, accepted))

    def _accept(self, delivery: Any, accepted: Accepted) -> None:
        accepted.publish()
        if self._alive:
            deliveries.settle(delivery, deliveries.ACCEPTED)
            self._owner.wake()

    def on_resumed(self) -> None:
        """Nothing waits here for a slow reader."""

    def on_closed(self) -> None:
        """Touch no delivery any more."""
        self._alive = False


class OutgoingLink:
    """A receiver's link to a queue: the queue's consumer."""

    def __init__(self, owner: LinkOwner, link: Any, broker: Broker, queue: Queue) -> None:
        queue.join(self)
        self._owner = owner
        self._link = link
        self._broker = broker
        self._queue = queue
        self._alive = True
        self._reserved = 0
        self._unsettled: dict[Any, bytes] = {}
        self.takes_and_deletes = engine.describe(link).remote_snd_settle_mode == engine.SEND_SETTLED
        engine.accept_link(link)

    # As the queue's consumer

    def capacity(self) -> int:
        """Return how many messages the receiver takes now."""
        if not self._alive or self._owner.paused:
            return 0
        return engine.credit(self._link) - self._reserved

    def reserve(self) -> None:
        """Set a credit aside for a message that is being deleted durably."""
        self._reserved += 1

    def deliver(self, message: Message, lock: Lock | None) -> None:
        """Send a message: under a lock, or one that is gone from the queue already."""
        if lock is None:
            self._reserved -= 1
        if not self._alive:
            return
        if lock is None:
            encoded = message.encoded()
            tag = message.sequence.to_bytes(_PRE_SETTLED_TAG_BYTES, "little")
            deliveries.send(self._link, tag, encoded, settled=True)
            self._answer_drain()
        else:
            encoded = message.encoded(lock.expires_ms)
            delivery = deliveries.send(self._link, lock.token, encoded, settled=False)
            self._unsettled[delivery] = lock.token
        self._owner.sent(len(encoded))

    # As the peer's counterpart

    def on_flow(self) -> None:
        """Hand out what there is for the new credit, and answer a drain."""
        try:
            if self.capacity() > 0:
                self._queue.offer(self, self._broker.now_ms())
        except Refused as refusal:
            self.turn_away(refusal)
        else:
            self._answer_drain()

    def turn_away(self, refusal: Refused) -> None:
        """Detach; what is locked stays so until its lock ends."""
        self.on_closed()
        engine.close_link(self._link, refusal.condition, str(refusal))
        self._owner.wake()

    def _answer_drain(self) -> None:
        if self._reserved == 0 and not self._owner.paused and engine.draining(self._link):
            engine.give_credit_back(self._link)

    def on_resumed(self) -> None:
        """Go on where the slow reader stopped us."""
        self.on_flow()

    def on_closed(self) -> None:
        """Leave what is locked to its lock's expiry, as the service does."""
        self._alive = False
        self._queue.withdraw(self)
        self._unsettled.clear()

    def on_delivery(self, delivery: Any) -> None:
        """Do what the receiver's outcome says, and echo it when that is durable."""
        outcome = deliveries.remote_outcome(delivery)
        if outcome not in _TERMINAL:
            if deliveries.remote_settled(delivery) and delivery in self._unsettled:
                del self._unsettled[delivery]
                deliveries.forget(delivery)
            return
        token = self._unsettled.pop(delivery, None)
        if token is None:
            return
        try:
            self._apply(outcome, delivery, token)
        except Refused as refusal:
            deliveries.reject(delivery, refusal.condition, str(refusal))
        else:
            self._broker.journal.when_durable(partial(self._echo, delivery, outcome))

    def _apply(self, outcome: int, delivery: Any, token: bytes) -> None:
        now_ms = self._broker.now_ms()
        if outcome == deliveries.ACCEPTED:
            self._queue.complete(token, now_ms)
        elif outcome == deliveries.RELEASED:
            self._queue.release(token, now_ms)
        elif outcome == deliveries.MODIFIED:
            settle = self._queue.defer if deliveries.is_deferral(delivery) else self._queue.abandon
            settle(token, now_ms, encoded_properties(deliveries.modified_annotations(delivery)))
        else:
            info = deliveries.rejection_info(delivery)
            reason, description = (
                optional_text(info.pop(key, None))
                for key in (DEAD_LETTER_REASON, DEAD_LETTER_DESCRIPTION)
            )
            self._queue.dead_letter(
                token,
                now_ms,
                reason=reason,
                description=description,
                changes=encoded_properties(info),
            )

    def _echo(self, delivery: Any, outcome: int) -> None:
        if self._alive:
            deliveries.settle(delivery, outcome)
            self._owner.wake()


_TERMINAL = frozenset(
    {deliveries.ACCEPTED, deliveries.REJECTED, deliveries.RELEASED, deliveries.MODIFIED}
)


def encoded_properties(values: dict[str, Any]) -> dict[str, bytes]:
    """Encode the application properties that a settlement sets."""
    return {name: deliveries.encode(value) for name, value in values.items()}


def optional_text(value: object) -> str | None:
    """Return a reason or description as the text it should be."""
    return None if value is None else str(value)
