"""Where a queue keeps its messages: by number, by where they stand, by when something is due.

Pure. What a queue does to a message, and what the journal hears of it, is the queue's affair.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import islice

from .deadlines import Deadlines
from .message import Message, State
from .refusals import MessageNotFound

_LEFT_BEHIND = 1000


@dataclass(frozen=True, slots=True)
class Counts:
    """How many messages a queue holds, by state."""

    active: int
    """Free to be received."""
    locked: int
    deferred: int
    scheduled: int


class Store:
    """The messages of one queue.

    Args:
        alarm: Called with the earliest time in ms at which something is due.
    """

    def __init__(self, alarm: Callable[[int], None]) -> None:
        self._alarm = alarm
        self._messages: dict[int, Message] = {}
        self._numbers: list[int] = []
        """Of all messages, and of some that have left; in order while ``_in_order`` says so."""
        self._in_order = True
        self._ready: list[int] = []
        """A heap of the active ones' numbers, and of some that have left without being taken."""
        self._counts = dict.fromkeys(State, 0)
        self._expiries: Deadlines[int] = Deadlines()
        self._schedules: Deadlines[int] = Deadlines()

    def __iter__(self) -> Iterator[Message]:
        return iter(self._messages.values())

    def hold(self, message: Message) -> None:
        """Take a message in that nobody may see yet."""
        message.state = State.PENDING
        self._counts[State.PENDING] += 1
        self._messages[message.sequence] = message
        # Dead letters come in any order.
        self._in_order &= not self._numbers or self._numbers[-1] < message.sequence
        self._numbers.append(message.sequence)
        if len(self._numbers) > 2 * len(self._messages) + _LEFT_BEHIND:
            self._sort()

    def lock(self, message: Message) -> None:
        """Keep a message for one receiver."""
        self._stand(message, State.LOCKED)

    def send_home(self, message: Message) -> None:
        """Put a message where it stands when nobody holds it."""
        self._stand(message, message.home)
        if message.home is State.ACTIVE:
            heappush(self._ready, message.sequence)
            if len(self._ready) > 2 * self._counts[State.ACTIVE] + _LEFT_BEHIND:
                self._ready = sorted(filter(self._is_active, self._ready))
            self._make_due(self._expiries, message.sequence, message.expires_ms)
        elif message.home is State.SCHEDULED:
            self._make_due(self._schedules, message.sequence, message.content.scheduled_ms)

    def remove(self, message: Message) -> None:
        """Let a message go."""
        del self._messages[message.sequence]
        self._counts[message.state] -= 1
        self._expiries.drop(message.sequence)
        self._schedules.drop(message.sequence)

    def find(self, sequences: list[int], state: State) -> list[Message]:
        """Return the messages of these numbers, each once.

        Raises:
            MessageNotFound: One is not there, or not in that state.
        """
        found = []
        for sequence in dict.fromkeys(sequences):
            message = self._messages.get(sequence)
            if message is None or message.state is not state:
                raise MessageNotFound(sequence)
            found.append(message)
        return found

    def next_ready(self) -> Message | None:
        """Take the oldest active message; it must be locked, removed or sent home."""
        while self._ready:
            sequence = heappop(self._ready)
            if self._is_active(sequence):
                return self._messages[sequence]
        return None

    def next_expired(self, now_ms: int) -> Message | None:
        """Return an active message whose time to live is over, each once."""
        while (sequence := self._expiries.pop(now_ms)) is not None:
            if self._messages[sequence].state is State.ACTIVE:
                return self._messages[sequence]
        return None

    def next_scheduled(self, now_ms: int) -> Message | None:
        """Return a scheduled message whose time has come, each once."""
        sequence = self._schedules.pop(now_ms)
        return None if sequence is None else self._messages[sequence]

    def set_alarm(self) -> None:
        """Ask to be woken for what is due next."""
        for deadlines in (self._expiries, self._schedules):
            first_ms = deadlines.first_ms()
            if first_ms is not None:
                self._alarm(first_ms)

    def peek(self, from_sequence: int, limit: int) -> list[Message]:
        """Return up to ``limit`` visible messages in order, from a sequence number on."""
        if not self._in_order:
            self._sort()
        first = bisect_left(self._numbers, from_sequence)
        numbers = islice(self._numbers, first, None)
        here = (self._messages[number] for number in numbers if number in self._messages)
        return [*islice((one for one in here if one.state is not State.PENDING), limit)]

    def counts(self) -> Counts:
        """Count the messages as they are now."""
        return Counts(
            active=self._counts[State.ACTIVE],
            locked=self._counts[State.LOCKED],
            deferred=self._counts[State.DEFERRED],
            scheduled=self._counts[State.SCHEDULED],
        )

    def _is_active(self, sequence: int) -> bool:
        message = self._messages.get(sequence)
        return message is not None and message.state is State.ACTIVE

    def _sort(self) -> None:
        self._numbers = sorted(self._messages)
        self._in_order = True

    def _stand(self, message: Message, state: State) -> None:
        self._counts[message.state] -= 1
        self._counts[state] += 1
        message.state = state

    def _make_due(self, deadlines: Deadlines[int], sequence: int, at_ms: int | None) -> None:
        if at_ms is not None and deadlines.set(sequence, at_ms):
            self._alarm(at_ms)
