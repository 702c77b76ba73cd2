"""A message on a queue, a lock on one, and what accepting some comes to. Pure.

Messages and locks refer to nothing that could refer back, so the garbage collector is told to leave
them out (``gc=False``): a full pass over 100,000 of them held everybody up for a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from msgspec import Struct

from .content import Content, render


class State(IntEnum):
    """Where a message stands; a number, because others are hashed anew at every look-up."""

    PENDING = 0
    """Accepted, not durable yet: nobody sees it."""
    ACTIVE = 1
    DEFERRED = 2
    """Set aside by a receiver: given only to one that asks for its sequence number."""
    SCHEDULED = 3
    """Kept back until its time."""
    LOCKED = 4


_RESPONSE_SHARE_BYTES = 512
_SHOWN = {State.ACTIVE: 0, State.DEFERRED: 1, State.SCHEDULED: 2}


class Message(Struct, eq=False, gc=False):
    """A message on a queue."""

    sequence: int
    enqueued_ms: int
    content: Content
    expires_ms: int | None = None
    delivery_count: int = 0
    state: State = State.PENDING
    home: State = State.ACTIVE
    """Where it stands when it is neither pending nor locked: active, deferred or scheduled."""

    def is_over(self, now_ms: int) -> bool:
        """Whether its time to live has passed."""
        return self.expires_ms is not None and self.expires_ms <= now_ms

    @property
    def response_bytes(self) -> int:
        """How much it takes of a response, at most, with the broker's annotations and its lock."""
        return self.content.size_bytes + _RESPONSE_SHARE_BYTES

    def encoded(self, locked_until_ms: int | None = None) -> bytes:
        """Encode it for a receiver, or for a peek when there is no lock."""
        return render(
            self.content,
            self.sequence,
            self.enqueued_ms,
            self.delivery_count,
            locked_until_ms,
            state=_SHOWN[self.home],
            expires_ms=self.expires_ms,
        )


class Lock(Struct, eq=False, gc=False):
    """One peek-lock delivery; its token is also the delivery's tag (a GUID, little endian)."""

    token: bytes
    message: Message
    expires_ms: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """Messages taken in."""

    sequences: list[int]
    publish: Callable[[], None]
    """To be called once they are durable: makes them visible."""
