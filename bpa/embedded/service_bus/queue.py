"""One queue: which messages wait, which are locked, and what each settlement does to them.

Pure but for its two collaborators: no clock (``now_ms`` is a parameter), no sockets. Changes are
written to a journal, in order; what only durable state may cause (a message becoming visible, a
pre-settled delivery being sent) waits for it. A dead-letter queue is a queue with other rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from functools import partial
from itertools import chain

from . import records
from .config import QueueConfig, Status
from .content import Content, with_dead_letter_reason, with_properties
from .counterparts import Consumer, Journal
from .intake import Intake
from .locks import Locks
from .message import Accepted, Lock, Message, State
from .receivers import Receivers
from .records import KeptQueue
from .refusals import (
    MessageNotFound,
    NotInDeadLetters,
    NotToDeadLetters,
    QuotaExceeded,
    TooMuchAtOnce,
)
from .status import check_cancels, check_receives, check_sends, receives, receiving_disabled
from .store import Counts, Store
from .tally import Tally

DEAD_LETTER_SUFFIX = "/$deadletterqueue"
MAX_DELIVERY_REASON = "MaxDeliveryCountExceeded"
EXPIRED_REASON = "TTLExpiredException"
EXPIRED_DESCRIPTION = "The message expired and was dead lettered."
_NO_CHANGES: Mapping[str, bytes] = {}


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
        self._journal = journal
        self._store = Store(partial(alarm, self))
        self._locks = Locks(partial(alarm, self))
        self._receivers = Receivers()
        self._intake = Intake(path, journal)
        self.tally = Tally()
        self.size_bytes = 0
        """How much the messages come to, as the service counts."""
        self.accessed_ms: int | None = None
        """When something was last sent or asked for, by number too; None for not in this life."""

    @property
    def status(self) -> Status:
        """What clients may do with the queue now."""
        return self.config.status

    @property
    def in_use(self) -> bool:
        """Whether it is not idle, however long ago it was accessed."""
        counts = self.counts()
        return self._receivers.anyone_waits or counts.scheduled > 0 or counts.locked > 0

    def reconfigure(self, config: QueueConfig) -> None:
        """Follow other properties from now on; messages and locks that are there keep theirs."""
        self.config = config
        if not receives(config.status):
            self._receivers.turn_away(receiving_disabled(self.path))

    def discard(self) -> None:
        """Forget everything: the queue is deleted. What still calls back finds nothing."""
        self._store, self._locks = Store(_sleep_on), Locks(_sleep_on)
        self._intake = Intake(self.path, self._journal)
        self._receivers = Receivers()
        self.size_bytes = 0

    # Sending

    def enqueue(self, contents: list[Content], now_ms: int) -> Accepted:
        """Accept messages; those that ask for a later time are scheduled.

        Where duplicates are detected, one is dropped, and has its first copy's sequence number.

        Raises:
            NotToDeadLetters: This is the dead-letter queue.
            EntityDisabled: Nothing may be sent.
            QuotaExceeded: The queue is full.
        """
        self._check_takes_messages()
        check_sends(self.status, self.path)
        self._check_room()
        self.accessed_ms = now_ms
        added, sequences = [], []
        for content in contents:
            first = self._intake.first_copy(content, now_ms, self.config)
            if first is None:
                message = self._intake.admit(content, now_ms, self.config)
                self._hold(message)
                added.append(message)
            sequences.append(message.sequence if first is None else first)
        self.tally.incoming += len(added)
        return Accepted(sequences, partial(self._publish, added, now_ms))

    def cancel(self, sequences: list[int]) -> None:
        """Remove scheduled messages, all or none.

        Raises:
            MessageNotFound: One of them is not scheduled.
            NotToDeadLetters: This is the dead-letter queue.
            EntityDisabled: Nothing may be sent or received.
        """
        self._check_takes_messages()
        check_cancels(self.status, self.path)
        for message in self._store.find(sequences, State.SCHEDULED):
            self._remove(message)

    def _check_takes_messages(self) -> None:
        if self.dead_letters is None:
            raise NotToDeadLetters

    def _check_room(self) -> None:
        """Raise QuotaExceeded when the queue is full, which its dead letters fill as well.

        As the service's exception for it says, the limit is one that is reached or exceeded: what
        exceeds it first is taken.
        """
        assert self.dead_letters is not None
        size_bytes = self.size_bytes + self.dead_letters.size_bytes
        most_bytes = self.config.max_size_mb * 1024 * 1024
        if size_bytes >= most_bytes:
            raise QuotaExceeded(self.path, size_bytes, most_bytes)

    def _hold(self, message: Message) -> None:
        self.size_bytes += message.content.counted_bytes
        self._store.hold(message)

    def _publish(self, added: list[Message], now_ms: int) -> None:
        for message in added:
            self._store.send_home(message)
        self.dispatch(now_ms)

    # Receiving

    def join(self, receiver: Consumer) -> None:
        """Let a receiver attach, with credit or without. Raises EntityDisabled."""
        check_receives(self.status, self.path)
        self._receivers.join(receiver)

    def offer(self, consumer: Consumer, now_ms: int) -> None:
        """Let a receiver with credit take part. Raises EntityDisabled."""
        check_receives(self.status, self.path)
        self.accessed_ms = now_ms
        self._receivers.wait(consumer)
        self.dispatch(now_ms)

    def withdraw(self, consumer: Consumer) -> None:
        """Forget a receiver; what it holds stays locked until it settles or the lock expires."""
        self._receivers.leave(consumer)

    def dispatch(self, now_ms: int) -> None:
        """Hand active messages, oldest first, to the waiting receivers in turn."""
        while (consumer := self._receivers.next()) is not None:
            message = self._take(now_ms)
            if message is None:
                return
            self._receivers.served(consumer)
            self.tally.outgoing += 1
            if consumer.takes_and_deletes:
                self.tally.settled["received_and_deleted"] += 1
                consumer.reserve()
                self._remove(message)
                self._journal.when_durable(partial(consumer.deliver, message, None))
            else:
                consumer.deliver(message, self._lock(message, now_ms))

    def _take(self, now_ms: int) -> Message | None:
        while (message := self._store.next_ready()) is not None:
            if message.is_over(now_ms):
                self._expire_message(message, now_ms)
                continue
            return message
        return None

    def _lock(self, message: Message, now_ms: int) -> Lock:
        self._store.lock(message)
        self._journal.append(records.locked(self.path, message.sequence))
        return self._locks.add(message, now_ms + self._lock_ms())

    def _lock_ms(self) -> int:
        return int(self.config.lock_duration_s * 1000)

    def receive_deferred(
        self, sequences: list[int], now_ms: int, *, most_bytes: int, deleting: bool
    ) -> list[tuple[Message, Lock | None]]:
        """Lock deferred messages, or remove them, all or none; the expired expire now.

        Raises:
            MessageNotFound: One of them is not deferred, is locked, or has just expired.
            EntityDisabled: Nothing may be received.
            TooMuchAtOnce: They are several, and come to more than ``most_bytes``.
        """
        check_receives(self.status, self.path)
        found = self._store.find(sequences, State.DEFERRED)
        size_bytes = sum(message.response_bytes for message in found)
        if len(found) > 1 and size_bytes > most_bytes:
            raise TooMuchAtOnce(size_bytes, most_bytes)
        expired = [message for message in found if message.is_over(now_ms)]
        for message in expired:
            self._expire_message(message, now_ms)
        if expired:
            raise MessageNotFound(expired[0].sequence)
        if not deleting:
            return [(message, self._lock(message, now_ms)) for message in found]
        for message in found:
            self._remove(message)
        return [(message, None) for message in found]

    # Settling; every way raises EntityDisabled when nothing may be received

    def complete(self, token: bytes, now_ms: int) -> None:
        """Remove a locked message. Raises MessageLockLost."""
        self._remove(self._unlock(token, now_ms))
        self.tally.settled["completed"] += 1

    def abandon(
        self, token: bytes, now_ms: int, changes: Mapping[str, bytes] = _NO_CHANGES
    ) -> None:
        """Give a locked message back and count the delivery.

        Args:
            token: Its lock.
            now_ms: The time.
            changes: Application properties to set, by name, encoded.

        Raises:
            MessageLockLost: The lock is gone.
        """
        message = self._unlock(token, now_ms)
        self.tally.settled["abandoned"] += 1
        self._change(message, changes)
        self._count_delivery(message, now_ms)
        self.dispatch(now_ms)

    def defer(self, token: bytes, now_ms: int, changes: Mapping[str, bytes] = _NO_CHANGES) -> None:
        """Set a locked message aside and count the delivery; as ``abandon`` otherwise."""
        message = self._unlock(token, now_ms)
        self.tally.settled["deferred"] += 1
        message.home = State.DEFERRED
        self._change(message, changes)
        if self.dead_letters is not None:
            message.delivery_count += 1
        self._return(message, now_ms)

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
        changes: Mapping[str, bytes] = _NO_CHANGES,
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
        self._bury(message, reason, description, now_ms, changes)

    def renew(self, token: bytes, now_ms: int) -> int:
        """Prolong a lock and return its new expiry in ms. Raises MessageLockLost."""
        lock = self._held(token, now_ms)
        self._locks.prolong(lock, now_ms + self._lock_ms())
        return lock.expires_ms

    def _held(self, token: bytes, now_ms: int) -> Lock:
        check_receives(self.status, self.path)
        return self._locks.held(token, now_ms)

    def _unlock(self, token: bytes, now_ms: int) -> Message:
        lock = self._held(token, now_ms)
        self._locks.drop(lock)
        return lock.message

    def _change(self, message: Message, changes: Mapping[str, bytes]) -> None:
        if changes:
            self._rewrite(message, with_properties(message.content, changes))
            self._journal.append(records.enqueued(self.path, message))

    def _rewrite(self, message: Message, content: Content) -> None:
        self.size_bytes += content.counted_bytes - message.content.counted_bytes
        message.content = content

    def _count_delivery(self, message: Message, now_ms: int) -> None:
        if self.dead_letters is not None:
            message.delivery_count += 1
            limit = self.config.max_delivery_count
            if message.delivery_count >= limit:
                text = f"Message could not be consumed after {limit} delivery attempts."
                self._bury(message, MAX_DELIVERY_REASON, text, now_ms)
                return
        self._return(message, now_ms)

    def _return(self, message: Message, now_ms: int) -> None:
        self._journal.append(records.unlocked(self.path, message))
        if message.home is State.ACTIVE and message.is_over(now_ms):
            self._expire_message(message, now_ms)
        else:
            self._store.send_home(message)

    def _remove(self, message: Message) -> None:
        self.size_bytes -= message.content.counted_bytes
        self._store.remove(message)
        self._journal.append(records.removed(self.path, message.sequence))

    def _bury(
        self,
        message: Message,
        reason: str | None,
        description: str | None,
        now_ms: int,
        changes: Mapping[str, bytes] = _NO_CHANGES,
    ) -> None:
        target = self.dead_letters
        assert target is not None
        content = with_dead_letter_reason(message.content, reason, description, changes)
        self._rewrite(message, content)
        message.expires_ms, message.home = None, State.ACTIVE
        # In this order: a journal torn in between has the message twice, and never not at all.
        self._journal.append(records.enqueued(target.path, message))
        self._remove(message)
        target.receive_dead_letter(message, now_ms)

    def receive_dead_letter(self, message: Message, now_ms: int) -> None:
        """Take a dead letter over; it becomes visible when it is durable."""
        self._hold(message)
        self._journal.when_durable(partial(self._publish, [message], now_ms))

    # Time

    def expire(self, now_ms: int) -> None:
        """Do what is due: end locks, drop or dead-letter old messages, activate scheduled ones."""
        while (message := self._locks.next_ended(now_ms)) is not None:
            self.tally.settled["lock_expired"] += 1
            self._count_delivery(message, now_ms)
        while (message := self._store.next_expired(now_ms)) is not None:
            self._expire_message(message, now_ms)
        activated = []
        while (message := self._store.next_scheduled(now_ms)) is not None:
            activated.append(self._activate(message, now_ms))
        if activated:
            self._journal.when_durable(partial(self._publish, activated, now_ms))
        self._locks.set_alarm()
        self._store.set_alarm()
        self.dispatch(now_ms)

    def _activate(self, message: Message, now_ms: int) -> Message:
        self._store.remove(message)
        self._intake.activate(message, now_ms, self.config)
        self._store.hold(message)
        return message

    def _expire_message(self, message: Message, now_ms: int) -> None:
        self.tally.settled["message_expired"] += 1
        if self.dead_letters is not None and self.config.dead_letter_on_expiration:
            self._bury(message, EXPIRED_REASON, EXPIRED_DESCRIPTION, now_ms)
        else:
            self._remove(message)

    # Looking

    def peek(self, from_sequence: int, limit: int) -> list[Message]:
        """Return up to ``limit`` visible messages in order, from a sequence number on."""
        return self._store.peek(from_sequence, limit)

    def counts(self) -> Counts:
        """Count the messages."""
        return self._store.counts()

    # Starting again

    def restore(self, kept: KeptQueue, now_ms: int) -> None:
        """Take in what a journal kept; the locks of the last life have expired."""
        self._intake.restore(kept, self.config)
        for message in sorted(kept.messages.values(), key=lambda message: message.sequence):
            self._hold(message)
            if message.sequence in kept.locked:
                self._count_delivery(message, now_ms)
            else:
                self._store.send_home(message)

    def snapshot(self) -> Iterator[bytes]:
        """Return records from which the queue can be restored as it is now.

        Each is encoded when it is asked for, be it in another thread: all of a full queue take
        long. Nothing that happens meanwhile shows in them.
        """
        held = [copy(message) for message in self._store]
        return chain(self._intake.snapshot(), chain.from_iterable(map(self._described, held)))

    def _described(self, message: Message) -> Iterator[bytes]:
        yield records.enqueued(self.path, message)
        if message.state is State.LOCKED:
            yield records.locked(self.path, message.sequence)


def _sleep_on(_at_ms: int) -> None:
    """Take no alarm: nothing is due on a queue that is gone."""
