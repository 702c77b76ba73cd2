"""One queue against a plain model of it, in virtual time, with crashes at any moment."""

from dataclasses import dataclass, field, replace
from itertools import chain

import proton
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bpa import amqp
from bpa.embedded.service_bus import records
from bpa.embedded.service_bus.config import QueueConfig
from bpa.embedded.service_bus.content import read_content
from bpa.embedded.service_bus.queue import Queue
from bpa.embedded.service_bus.refusals import MessageLockLost, MessageNotFound, NotToDeadLetters
from bpa.embedded.service_bus.store import Counts

LOCK_MS, WINDOW_MS, LIMIT = 60_000, 30_000, 3


class Journal:
    """Keeps records at once; what waits for them runs when the test lets it."""

    def __init__(self):
        self.records = []
        self._snapshot = ()
        self._callbacks = []

    def start_anew(self, snapshot):
        """Keep the snapshot in place of all records; it is read as late as can be."""
        self.records, self._snapshot = [], snapshot

    def read(self):
        self.records, self._snapshot = [*self._snapshot, *self.records], ()
        return b"".join(self.records)

    def append(self, record):
        self.records.append(record)

    def when_durable(self, callback):
        self._callbacks.append(callback)

    def sync(self):
        while self._callbacks:
            self._callbacks.pop(0)()


class Receiver:
    """A consumer that takes what it has credit for."""

    takes_and_deletes = False

    def __init__(self, credit):
        self.credit = credit
        self.got = []

    def capacity(self):
        return self.credit

    def reserve(self):
        self.credit -= 1

    def deliver(self, message, lock):
        if lock is not None:
            self.credit -= 1
        self.got.append((message, lock))

    def turn_away(self, refusal):
        raise refusal


class Deleting(Receiver):
    takes_and_deletes = True


@dataclass
class Known:
    """What the model knows of a message."""

    number: int
    message_id: str
    state: str
    count: int = 0
    expires_ms: int | None = None
    due_ms: int | None = None
    ttl_ms: int | None = None
    deferred: bool = False
    locked_until_ms: int = 0
    token: bytes = b""
    properties: dict = field(default_factory=dict)
    reason: str | None = None


def content_of(message_id, ttl_ms, due_ms):
    message = proton.Message(id=message_id, body=b"x")
    if ttl_ms is not None:
        message.ttl = ttl_ms / 1000
    if due_ms is not None:
        message.annotations = {
            proton.symbol("x-opt-scheduled-enqueue-time"): proton.timestamp(due_ms)
        }
    return read_content(bytes(message.encode()))


def decoded(message):
    found = proton.Message()
    found.decode(message.encoded())
    return found


class QueueMachine(RuleBasedStateMachine):
    """Plays acts on the queue and on the model, and compares what both hold after each."""

    def __init__(self):
        super().__init__()
        self.now_ms = 1_000_000
        self.journal = Journal()
        self.live, self.dead = {}, {}
        self.next_number = 1
        self.history = {}

    @initialize(ttl_s=st.sampled_from([None, 40.0]), burying=st.booleans(), detecting=st.booleans())
    def begin(self, ttl_s, burying, detecting):
        self.config = QueueConfig(
            "q",
            LOCK_MS / 1000,
            LIMIT,
            ttl_s,
            dead_letter_on_expiration=burying,
            duplicate_window_s=WINDOW_MS / 1000 if detecting else None,
        )
        self.open()

    def open(self):
        self.letters = Queue("q/dead", self.config, self.journal, self.alarm, None)
        self.queue = Queue("q", self.config, self.journal, self.alarm, self.letters)

    def alarm(self, queue, at_ms):
        """The machine lets time pass by itself."""

    # Acts

    @rule(
        number=st.integers(0, 5),
        ttl_ms=st.sampled_from([None, 20_000, 90_000]),
        delay_ms=st.sampled_from([None, -5, 10_000, 100_000]),
        copies=st.integers(1, 2),
    )
    def send(self, number, ttl_ms, delay_ms, copies):
        due_ms = None if delay_ms is None else self.now_ms + delay_ms
        message_id = f"m{number}"
        content = content_of(message_id, ttl_ms, due_ms)
        accepted = self.queue.enqueue([content] * copies, self.now_ms)
        self.journal.sync()
        accepted.publish()
        expected = [self.model_send(message_id, ttl_ms, due_ms) for _ in range(copies)]
        assert accepted.sequences == expected
        self.settle_time()

    def model_send(self, message_id, ttl_ms, due_ms):
        if self.config.duplicate_window_s is not None:
            at_ms, number = self.history.get(message_id, (None, None))
            if at_ms is not None and at_ms > self.now_ms - WINDOW_MS:
                return number
            self.history[message_id] = self.now_ms, self.next_number
        one = Known(self.next_number, message_id, "active", ttl_ms=ttl_ms)
        self.next_number += 1
        if due_ms is not None and due_ms > self.now_ms:
            one.state, one.due_ms = "scheduled", due_ms
        else:
            one.expires_ms = self.expiry(one)
        self.live[one.number] = one
        return one.number

    def expiry(self, one):
        default_ms = None if self.config.default_ttl_s is None else self.config.default_ttl_s * 1000
        lives = [life for life in (one.ttl_ms, default_ms) if life is not None]
        return self.now_ms + int(min(lives)) if lives else None

    @rule(delay_ms=st.sampled_from([None, 10_000]))
    def send_to_the_dead_letters(self, delay_ms):
        due_ms = None if delay_ms is None else self.now_ms + delay_ms
        with pytest.raises(NotToDeadLetters):
            self.letters.enqueue([content_of("intruder", None, due_ms)], self.now_ms)
        with pytest.raises(NotToDeadLetters):
            self.letters.cancel([1])

    @rule(credit=st.integers(0, 3), dead=st.booleans())
    def receive(self, credit, dead):
        queue, known = (self.letters, self.dead) if dead else (self.queue, self.live)
        expected = [one for one in self.in_order(known) if one.state == "active"][:credit]
        receiver = Receiver(credit)
        queue.offer(receiver, self.now_ms)
        queue.withdraw(receiver)
        assert [message.sequence for message, _ in receiver.got] == [o.number for o in expected]
        for one, (message, lock) in zip(expected, receiver.got, strict=True):
            assert message.delivery_count == one.count
            self.model_lock(one, lock)

    @rule()
    def receive_and_delete(self):
        expected = [one for one in self.in_order(self.live) if one.state == "active"][:1]
        receiver = Deleting(1)
        self.queue.offer(receiver, self.now_ms)
        assert receiver.got == [], "sent before it was durably gone"
        self.journal.sync()
        self.queue.withdraw(receiver)
        assert [message.sequence for message, _ in receiver.got] == [o.number for o in expected]
        for one in expected:
            del self.live[one.number]

    def model_lock(self, one, lock):
        one.state, one.token = "locked", lock.token
        one.locked_until_ms = self.now_ms + LOCK_MS
        assert lock.expires_ms == one.locked_until_ms

    def in_order(self, known):
        return sorted(known.values(), key=lambda one: one.number)

    @precondition(lambda self: self.locked())
    @rule(
        data=st.data(),
        act=st.sampled_from(
            ["complete", "abandon", "release", "defer", "dead_letter", "renew", "twice"]
        ),
        changes=st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 9), max_size=2),
    )
    def settle(self, data, act, changes):
        in_dead, one = data.draw(st.sampled_from(self.locked()))
        queue = self.letters if in_dead else self.queue
        encoded = {name: amqp.encode_long(value) for name, value in changes.items()}
        known = self.dead if in_dead else self.live
        if act == "complete" or act == "twice" or (act == "dead_letter" and in_dead):
            queue.complete(one.token, self.now_ms)
            del known[one.number]
            if act == "twice":
                with pytest.raises(MessageLockLost):
                    queue.complete(one.token, self.now_ms)
        elif act == "renew":
            one.locked_until_ms = queue.renew(one.token, self.now_ms)
            assert one.locked_until_ms == self.now_ms + LOCK_MS
        elif act == "release":
            queue.release(one.token, self.now_ms)
            self.model_return(one, known)
        elif act == "dead_letter":
            queue.dead_letter(
                one.token, self.now_ms, reason="why", description=None, changes=encoded
            )
            one.properties |= changes
            self.model_bury(one, "why")
        else:
            getattr(queue, act)(one.token, self.now_ms, encoded)
            one.properties |= changes
            one.count += not in_dead
            one.deferred |= act == "defer"
            if act == "abandon" and not in_dead and one.count >= LIMIT:
                self.model_bury(one, "MaxDeliveryCountExceeded")
            else:
                self.model_return(one, known)
        self.journal.sync()

    def locked(self):
        return [
            (known is self.dead, one)
            for known in (self.live, self.dead)
            for one in self.in_order(known)
            if one.state == "locked"
        ]

    def model_return(self, one, known):
        one.state = "deferred" if one.deferred else "active"
        if one.state == "active":
            self.model_expire(one, known)

    def model_expire(self, one, known):
        if one.expires_ms is not None and one.expires_ms <= self.now_ms:
            if self.config.dead_letter_on_expiration:
                self.model_bury(one, "TTLExpiredException")
            else:
                del known[one.number]

    def model_bury(self, one, reason):
        del self.live[one.number]
        letter = replace(one, state="active", deferred=False, expires_ms=None, reason=reason)
        self.dead[one.number] = letter

    @precondition(lambda self: self.deferred())
    @rule(data=st.data(), deleting=st.booleans())
    def receive_deferred(self, data, deleting):
        one = data.draw(st.sampled_from(self.deferred()))
        ask = [one.number, one.number]
        if one.expires_ms is not None and one.expires_ms <= self.now_ms:
            with pytest.raises(MessageNotFound):
                self.queue.receive_deferred(ask, self.now_ms, most_bytes=9**9, deleting=deleting)
            self.model_expire(one, self.live)
        else:
            ((message, lock),) = self.queue.receive_deferred(
                ask, self.now_ms, most_bytes=9**9, deleting=deleting
            )
            assert (message.sequence, message.delivery_count) == (one.number, one.count)
            if deleting:
                del self.live[one.number]
            else:
                self.model_lock(one, lock)
        self.journal.sync()

    def deferred(self):
        return [one for one in self.in_order(self.live) if one.state == "deferred"]

    @rule(number=st.integers(1, 12))
    def ask_for_what_is_not_there(self, number):
        one = self.live.get(number)
        if one is None or one.state != "scheduled":
            with pytest.raises(MessageNotFound):
                self.queue.cancel([number])
        else:
            self.queue.cancel([number])
            del self.live[number]
        if one is None or one.state != "deferred":
            with pytest.raises(MessageNotFound):
                self.queue.receive_deferred([number], self.now_ms, most_bytes=9**9, deleting=True)

    @rule(delay_ms=st.sampled_from([1, 9_999, 20_000, 45_000, 100_000]))
    def wait(self, delay_ms):
        self.now_ms += delay_ms
        self.settle_time()

    def settle_time(self):
        for queue in (self.queue, self.letters):
            queue.expire(self.now_ms)
        self.journal.sync()
        for known in (self.live, self.dead):
            for one in self.in_order(known):
                if one.state == "locked" and one.locked_until_ms <= self.now_ms:
                    self.model_lock_end(one, known)
        for one in self.in_order(self.live):
            if one.state == "active":
                self.model_expire(one, self.live)
        self.model_activate()

    def model_lock_end(self, one, known):
        if known is self.live:
            one.count += 1
            if one.count >= LIMIT:
                self.model_bury(one, "MaxDeliveryCountExceeded")
                return
        self.model_return(one, known)

    def model_activate(self):
        due = [
            one
            for one in self.live.values()
            if one.state == "scheduled" and one.due_ms <= self.now_ms
        ]
        for one in sorted(due, key=lambda one: (one.due_ms, one.number)):
            del self.live[one.number]
            one.number, one.state = self.next_number, "active"
            one.expires_ms = self.expiry(one)
            self.next_number += 1
            self.live[one.number] = one

    @rule(share=st.floats(0, 1))
    def a_journal_cut_off_anywhere_is_read(self, share):
        """Any beginning of the journal makes sense, and none holds what was never sent."""
        data = self.journal.read()
        replay = records.Replay()
        for body, _ in records.bodies(data[: int(len(data) * share)]):
            replay.apply(body)
        dead = Queue("q/dead", self.config, Journal(), self.alarm, None)
        live = Queue("q", self.config, Journal(), self.alarm, dead)
        for queue in (dead, live):
            if queue.path in replay.queues:
                queue.restore(replay.queues[queue.path], self.now_ms)
            queue.expire(self.now_ms)
            numbers = [message.sequence for message in queue.peek(0, 1000)]
            assert numbers == sorted(set(numbers))
            assert all(number < self.next_number for number in numbers)

    @rule()
    def compact(self):
        """Take a snapshot; what happens until it is read must not show in it."""
        self.journal.start_anew(chain(self.letters.snapshot(), self.queue.snapshot()))

    @rule()
    def crash(self):
        """Start again from the journal; locks have ended."""
        replay = records.Replay()
        for body, _ in records.bodies(self.journal.read()):
            replay.apply(body)
        self.open()
        for queue in (self.letters, self.queue):
            kept = replay.queues.get(queue.path)
            if kept is not None:
                queue.restore(kept, self.now_ms)
        for known in (self.live, self.dead):
            for one in self.in_order(known):
                if one.state == "locked":
                    self.model_lock_end(one, known)
        self.settle_time()

    # What must hold

    @invariant()
    def both_hold_the_same(self):
        if not hasattr(self, "queue"):
            return
        for queue, known in ((self.queue, self.live), (self.letters, self.dead)):
            seen = queue.peek(0, 1000)
            assert [message.sequence for message in seen] == [
                o.number for o in self.in_order(known)
            ]
            for message, one in zip(seen, self.in_order(known), strict=True):
                self.is_the_same(message, one)
            for nth, message in enumerate(seen):
                assert queue.peek(message.sequence + 1, 2) == seen[nth + 1 : nth + 3]
            assert queue.size_bytes == sum(one.content.counted_bytes for one in queue._store)
            states = [one.state for one in known.values()]
            assert queue.counts() == Counts(
                **{name: states.count(name) for name in ("active", "locked", "deferred")},
                scheduled=states.count("scheduled"),
            )

    def is_the_same(self, message, one):
        assert message.state.name.lower() == one.state
        assert (message.delivery_count, message.expires_ms) == (one.count, one.expires_ms)
        found = decoded(message)
        properties = dict(found.properties or {})
        reason = properties.pop("DeadLetterReason", None)
        properties.pop("DeadLetterErrorDescription", None)
        assert (found.id, properties, reason) == (one.message_id, one.properties, one.reason)
        shown = {"deferred": 1, "scheduled": 2}.get(one.state, 1 if one.deferred else 0)
        assert found.annotations[proton.symbol("x-opt-message-state")] == shown


def test_messages_that_expire_unread_leave_no_numbers_behind():
    journal = Journal()
    queue = Queue("q", QueueConfig("q"), journal, lambda *_: None, None)
    queue.dead_letters = Queue("q/dead", queue.config, journal, lambda *_: None, None)
    brief, lasting = content_of("brief", 1_000, None), content_of("lasting", None, None)
    for now_ms in range(0, 1_000_000, 1_000):
        queue.expire(now_ms)
        queue.enqueue(
            [lasting, *[brief] * 9] if now_ms % 100_000 == 0 else [brief] * 9, now_ms
        ).publish()
    assert queue.counts().active == 19
    assert len(queue._store._ready) < 2_000
    receiver = Receiver(10)
    queue.offer(receiver, 1_000_000)
    numbers = [message.sequence for message, _ in receiver.got]
    assert (len(numbers), numbers) == (10, sorted(numbers))


QueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestQueue = QueueMachine.TestCase
