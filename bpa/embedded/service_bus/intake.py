"""How messages come into a queue: their numbers and times, and which of them came before. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from . import records
from .config import QueueConfig
from .content import Content
from .counterparts import Journal
from .duplicates import Duplicates
from .message import Message, State
from .records import KeptQueue


class Intake:
    """Makes the messages of one queue.

    Each method is told the queue's properties, which may change while it lives.

    Args:
        path: The queue's name in the journal.
        journal: Where it is written what came in.
    """

    def __init__(self, path: str, journal: Journal) -> None:
        self._path = path
        self._journal = journal
        self._next_sequence = 1
        self._duplicates = Duplicates(path)

    def first_copy(self, content: Content, now_ms: int, config: QueueConfig) -> int | None:
        """Return the number of what a duplicate repeats; None when it is to be admitted."""
        if config.duplicate_window_s is None:
            return None
        return self._duplicates.find(content, now_ms, config.duplicate_window_s)

    def admit(self, content: Content, now_ms: int, config: QueueConfig) -> Message:
        """Make a message of what was sent; one that asks for a later time is scheduled."""
        message = Message(self._number(), now_ms, content)
        if content.scheduled_ms is not None and content.scheduled_ms > now_ms:
            message.home = State.SCHEDULED
        else:
            message.expires_ms = _expiry_ms(content, now_ms, config)
        detecting = config.duplicate_window_s is not None
        self._journal.append(records.enqueued(self._path, message, noted=detecting))
        if detecting:
            self._duplicates.add(content, now_ms, message.sequence)
        return message

    def activate(self, message: Message, now_ms: int, config: QueueConfig) -> None:
        """Make a scheduled message one that is sent now, under a number of its own."""
        scheduled = message.sequence
        message.sequence, message.enqueued_ms = self._number(), now_ms
        message.expires_ms = _expiry_ms(message.content, now_ms, config)
        message.home = State.ACTIVE
        self._journal.append(records.activated(self._path, scheduled, message))

    def restore(self, kept: KeptQueue, config: QueueConfig) -> None:
        """Take in what a journal kept."""
        self._next_sequence = kept.next_sequence
        if config.duplicate_window_s is not None:
            self._duplicates.restore(kept)

    def snapshot(self) -> Iterator[bytes]:
        """Return records from which numbers and history can be restored as they are now."""
        numbered = records.next_sequence(self._path, self._next_sequence)
        return chain((numbered,), self._duplicates.snapshot())

    def _number(self) -> int:
        self._next_sequence += 1
        return self._next_sequence - 1


def _expiry_ms(content: Content, now_ms: int, config: QueueConfig) -> int | None:
    lives = [] if content.ttl_ms is None else [content.ttl_ms]
    if config.default_ttl_s is not None:
        lives.append(int(config.default_ttl_s * 1000))
    return now_ms + min(lives) if lives else None
