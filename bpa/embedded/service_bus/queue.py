"""One queue: which messages wait, which are locked, and what each settlement does to them.

Pure but for its two collaborators: no clock (``now_ms`` is a parameter), no sockets. Changes are
written to a journal, in order; what only durable state may cause (a message becoming visible, a
pre-settled delivery being sent) waits for it. A dead-letter queue is a queue with other rules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from heapq import heapify, heappop, heappush, nsmallest
from os import urandom
from typing import Protocol

from . import records
from .config import QueueConfig, Status
from .content import Content, with_dead_letter_reason
from .message import Lock, Message, State
from .tally import Tally

DEAD_LETTER_SUFFIX = "/$deadletterqueue"
MAX_DELIVERY_REASON = "MaxDeliveryCountExceeded"
EXPIRED_REASON = "TTLExpiredException"
EXPIRED_DESCRIPTION = "The message expired and was dead lettered."
_STALE_DEADLINES = 1000


class MessageLockLost(Exception):
    """The lock has expired, was settled already, or never was."""


class NotInDeadLetters(Exception):
    """A dead letter cannot be dead-lettered again."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many messages a queue holds, by state."""

    active: int
    locked: int
    scheduled: int = 0
    deferred: int = 0


class Journal(Protocol):
    """Keeps what happened; callbacks run in order once all before them is durable."""

    def append(self, record: bytes) -> None:
        """Write a record behind those before it."""

    def when_durable(self, callback: Callable[[], None]) -> None:
        """Call back when everything appended so far would survive."""


class Consumer(Protocol):
    """A receiver's link."""

    @property
    def takes_and_deletes(self) -> bool:
        """Whether what it is sent is gone at once."""

    def capacity(self) -> int:
        """Return how many messages it can be sent now."""

    def reserve(self) -> None:
        """Set one credit aside for a ``deliver`` to come."""

    def deliver(self, message: Message, lock: Lock | None) -> None:
        """Send it a message."""


class Queue:
    """The messages of one queue (or dead-letter queue) and the receivers that wait for them.

    Args:
        path: Lower-case path, the queue's name in the journal.
        config: The queue's properties.
        journal: Where changes are written.
        alarm: Called with the earliest time in ms at which ``expire`` has something to do.
        dead_letters: Where dead letters go; None in a dead-letter queue itself.
    """

    def __init__(
        self,
        path: str,
        config: QueueConfig,
        journal: Journal,
        alarm: Callable[[Queue, int], None],
        dead_letters: Queue | None,
    ) -> None:
        self.path = path
        self.config = config
        self.dead_letters = dead_letters
        self.next_sequence = 1
        self.lock_ms = int(config.lock_duration_s * 1000)
        self._journal = journal
        self._alarm = alarm
        self._messages: dict[int, Message] = {}
        self._ready: list[int] = []
        self._locks: dict[bytes, Lock] = {}
        self._lock_ends: list[tuple[int, bytes]] = []
        self._expiries: list[tuple[int, int]] = []
        self._waiting: dict[Consumer, None] = {}
        self._pending = 0
        self.tally = Tally()
        self.accessed_ms: int | None = None
        """When something was last sent, or asked for; None for not in this life."""

    @property
    def status(self) -> Status:
        """What clients may do with the queue now."""
        return self.config.status

    def reconfigure(self, config: QueueConfig) -> None:
        """Follow other properties from now on; messages and locks that are there keep theirs."""
        self.config = config
        self.lock_ms = int(config.lock_duration_s * 1000)

    def discard(self) -> None:
        """Forget everything: the queue is deleted. What still calls back finds nothing."""
        for held in (self._messages, self._locks, self._waiting):
            held.clear()
        for due in (self._ready, self._lock_ends, self._expiries):
            due.clear()

    # Sending

    def enqueue(self, contents: list[Content], now_ms: int) -> Callable[[], None]:
        """Accept messages; call what is returned once they are durable, to make them visible."""
        self.accessed_ms = now_ms
        added = []
        for content in contents:
            message = Message(self.next_sequence, now_ms, content, self._expiry_ms(content, now_ms))
            self.next_sequence += 1
            self._journal.append(records.enqueued(self.path, message))
            added.append(message)
        self._hold(added)
        self.tally.incoming += len(added)
        return partial(self._publish, added, now_ms)

    def _expiry_ms(self, content: Content, now_ms: int) -> int | None:
        lives = [] if content.ttl_ms is None else [content.ttl_ms]
        if self.config.default_ttl_s is not None:
            lives.append(int(self.config.default_ttl_s * 1000))
        return now_ms + min(lives) if lives else None

    def _hold(self, added: list[Message]) -> None:
        for message in added:
            message.state = State.PENDING
            self._messages[message.sequence] = message
        self._pending += len(added)

    def _publish(self, added: list[Message], now_ms: int) -> None:
        self._pending -= len(added)
        for message in added:
            self._make_active(message)
            self._schedule_expiry(message)
        self.dispatch(now_ms)

    # Receiving

    def offer(self, consumer: Consumer, now_ms: int) -> None:
        """Let a receiver with credit take part."""
        self.accessed_ms = now_ms
        self._waiting[consumer] = None
        self.dispatch(now_ms)

    def withdraw(self, consumer: Consumer) -> None:
        """Forget a receiver; what it holds stays locked until it settles or the lock expires."""
        self._waiting.pop(consumer, None)

    def dispatch(self, now_ms: int) -> None:
        """Hand active messages, oldest first, to the waiting receivers in turn."""
        while self._waiting:
            consumer = next(iter(self._waiting))
            if consumer.capacity() <= 0:
                del self._waiting[consumer]
                continue
            message = self._take(now_ms)
            if message is None:
                return
            del self._waiting[consumer]
            self._waiting[consumer] = None
            self.tally.outgoing += 1
            if consumer.takes_and_deletes:
                self.tally.settled["received_and_deleted"] += 1
                consumer.reserve()
                self._remove(message)
                self._journal.when_durable(partial(consumer.deliver, message, None))
            else:
                consumer.deliver(message, self._lock(message, now_ms))

    def _take(self, now_ms: int) -> Message | None:
        while self._ready:
            message = self._messages.get(heappop(self._ready))
            if message is None or message.state is not State.ACTIVE:
                continue
            if message.expires_ms is not None and message.expires_ms <= now_ms:
                self._expire_message(message, now_ms)
                continue
            return message
        return None

    def _lock(self, message: Message, now_ms: int) -> Lock:
        lock = Lock(urandom(16), message, now_ms + self.lock_ms)
        message.state = State.LOCKED
        self._locks[lock.token] = lock
        self._journal.append(records.locked(self.path, message.sequence))
        self._schedule_lock_end(lock)
        return lock

    # Settling

    def complete(self, token: bytes, now_ms: int) -> None:
        """Remove a locked message. Raises MessageLockLost."""
        self._remove(self._unlock(token, now_ms))
        self.tally.settled["completed"] += 1

    def abandon(self, token: bytes, now_ms: int) -> None:
        """Give a locked message back and count the delivery. Raises MessageLockLost."""
        message = self._unlock(token, now_ms)
        self.tally.settled["abandoned"] += 1
        self._count_delivery(message, now_ms)
        self.dispatch(now_ms)

    def release(self, token: bytes, now_ms: int) -> None:
        """Give a locked message back uncounted. Raises MessageLockLost."""
        message = self._unlock(token, now_ms)
        self.tally.settled["released"] += 1
        self._return(message, now_ms)
        self.dispatch(now_ms)

    def dead_letter(
        self,
        token: bytes,
        now_ms: int,
        *,
        reason: str | None,
        description: str | None,
        extra: dict[str, str],
    ) -> None:
        """Move a locked message to the dead letters.

        Raises:
            MessageLockLost: The lock is gone.
            NotInDeadLetters: This is the dead-letter queue.
        """
        if self.dead_letters is None:
            raise NotInDeadLetters
        message = self._unlock(token, now_ms)
        self.tally.settled["dead_lettered"] += 1
        self._bury(message, reason, description, extra, now_ms)

    def renew(self, token: bytes, now_ms: int) -> int:
        """Prolong a lock and return its new expiry in ms. Raises MessageLockLost."""
        lock = self._held(token, now_ms)
        lock.expires_ms = now_ms + self.lock_ms
        self._schedule_lock_end(lock)
        return lock.expires_ms

    def _held(self, token: bytes, now_ms: int) -> Lock:
        lock = self._locks.get(token)
        if lock is None or lock.expires_ms <= now_ms:
            raise MessageLockLost
        return lock

    def _unlock(self, token: bytes, now_ms: int) -> Message:
        message = self._held(token, now_ms).message
        del self._locks[token]
        return message

    def _count_delivery(self, message: Message, now_ms: int) -> None:
        if self.dead_letters is not None:
            message.delivery_count += 1
            limit = self.config.max_delivery_count
            if message.delivery_count >= limit:
                text = f"Message could not be consumed after {limit} delivery attempts."
                self._bury(message, MAX_DELIVERY_REASON, text, {}, now_ms)
                return
        self._return(message, now_ms)

    def _return(self, message: Message, now_ms: int) -> None:
        count = message.delivery_count
        self._journal.append(records.unlocked(self.path, message.sequence, count))
        if message.expires_ms is not None and message.expires_ms <= now_ms:
            self._expire_message(message, now_ms)
        else:
            self._make_active(message)

    def _make_active(self, message: Message) -> None:
        message.state = State.ACTIVE
        heappush(self._ready, message.sequence)

    def _remove(self, message: Message) -> None:
        del self._messages[message.sequence]
        self._journal.append(records.removed(self.path, message.sequence))

    def _bury(
        self,
        message: Message,
        reason: str | None,
        description: str | None,
        extra: dict[str, str],
        now_ms: int,
    ) -> None:
        target = self.dead_letters
        assert target is not None
        message.content = with_dead_letter_reason(message.content, reason, description, extra)
        message.expires_ms = None
        # In this order: a journal torn in between has the message twice, and never not at all.
        self._journal.append(records.enqueued(target.path, message))
        self._remove(message)
        target.receive_dead_letter(message, now_ms)

    def receive_dead_letter(self, message: Message, now_ms: int) -> None:
        """Take a dead letter over; it becomes visible when it is durable."""
        self._hold([message])
        self._journal.when_durable(partial(self._publish, [message], now_ms))

    # Time

    def expire(self, now_ms: int) -> None:
        """Take back the locks, and drop or dead-letter the messages, whose time is up."""
        while self._lock_ends and self._lock_ends[0][0] <= now_ms:
            lock = self._locks.get(heappop(self._lock_ends)[1])
            if lock is not None and lock.expires_ms <= now_ms:
                del self._locks[lock.token]
                self.tally.settled["lock_expired"] += 1
                self._count_delivery(lock.message, now_ms)
        while self._expiries and self._expiries[0][0] <= now_ms:
            message = self._messages.get(heappop(self._expiries)[1])
            if message is not None and message.state is State.ACTIVE:
                self._expire_message(message, now_ms)
        for deadlines in (self._lock_ends, self._expiries):
            if deadlines:
                self._alarm(self, deadlines[0][0])
        self.dispatch(now_ms)

    def _expire_message(self, message: Message, now_ms: int) -> None:
        self.tally.settled["message_expired"] += 1
        if self.dead_letters is not None and self.config.dead_letter_on_expiration:
            self._bury(message, EXPIRED_REASON, EXPIRED_DESCRIPTION, {}, now_ms)
        else:
            self._remove(message)

    def _schedule_lock_end(self, lock: Lock) -> None:
        if len(self._lock_ends) > 2 * len(self._locks) + _STALE_DEADLINES:
            self._lock_ends = [(held.expires_ms, held.token) for held in self._locks.values()]
            heapify(self._lock_ends)
        heappush(self._lock_ends, (lock.expires_ms, lock.token))
        if self._lock_ends[0][1] is lock.token:
            self._alarm(self, lock.expires_ms)

    def _schedule_expiry(self, message: Message) -> None:
        if message.expires_ms is None:
            return
        if len(self._expiries) > 2 * len(self._messages) + _STALE_DEADLINES:
            self._expiries = [
                (held.expires_ms, held.sequence)
                for held in self._messages.values()
                if held.expires_ms is not None
            ]
            heapify(self._expiries)
        heappush(self._expiries, (message.expires_ms, message.sequence))
        if self._expiries[0][1] == message.sequence:
            self._alarm(self, message.expires_ms)

    # Looking

    def peek(self, from_sequence: int, limit: int) -> list[Message]:
        """Return up to ``limit`` visible messages in order, from a sequence number on."""
        return nsmallest(
            limit,
            (
                message
                for message in self._messages.values()
                if message.sequence >= from_sequence and message.state is not State.PENDING
            ),
            key=lambda message: message.sequence,
        )

    def counts(self) -> Counts:
        """Count the messages as they are now."""
        locked = len(self._locks)
        return Counts(active=len(self._messages) - locked - self._pending, locked=locked)

    def size_bytes(self) -> int:
        """Add up the messages' bytes; takes a moment when there are many."""
        contents = [message.content for message in self._messages.values()]
        return sum(len(it.header) + len(it.annotations) + len(it.bare) for it in contents)

    # Starting again

    def restore(self, kept: list[Message], was_locked: set[int], now_ms: int) -> None:
        """Take in what a journal kept; the locks of the last life have expired."""
        for message in sorted(kept, key=lambda message: message.sequence):
            self._messages[message.sequence] = message
            self._schedule_expiry(message)
            if message.sequence in was_locked:
                self._count_delivery(message, now_ms)
            else:
                self._make_active(message)

    def snapshot(self) -> list[bytes]:
        """Return records from which the queue can be restored."""
        found = [records.next_sequence(self.path, self.next_sequence)]
        held = {lock.message.sequence for lock in self._locks.values()}
        for message in self._messages.values():
            found.append(records.enqueued(self.path, message))
            if message.sequence in held:
                found.append(records.locked(self.path, message.sequence))
        return found
