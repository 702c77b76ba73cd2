"""What a queue works with: the journal that keeps its changes, and those who receive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .message import Lock, Message
from .refusals import Refused


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

    def turn_away(self, refusal: Refused) -> None:
        """Say that nothing more will come, and why."""
