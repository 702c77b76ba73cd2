"""Who receives from a queue, and whose turn it is. Pure."""

from __future__ import annotations

from .counterparts import Consumer
from .refusals import Refused


class Receivers:
    """The receivers that are attached to one queue."""

    def __init__(self) -> None:
        self._attached: dict[Consumer, None] = {}
        """In the order in which they came."""
        self._waiting: dict[Consumer, None] = {}
        """Those of them that have given credit, whoever was served longest ago first."""

    def join(self, receiver: Consumer) -> None:
        """Take one in that waits for nothing yet."""
        self._attached[receiver] = None

    def leave(self, receiver: Consumer) -> None:
        """Forget one."""
        self._attached.pop(receiver, None)
        self._waiting.pop(receiver, None)

    def wait(self, receiver: Consumer) -> None:
        """Let one wait for messages."""
        self._waiting[receiver] = None

    @property
    def anyone_waits(self) -> bool:
        """Whether a message would be sent to someone now."""
        return any(receiver.capacity() > 0 for receiver in self._waiting)

    def next(self) -> Consumer | None:
        """Return whose turn it is; those that take nothing now wait no longer."""
        while self._waiting:
            receiver = next(iter(self._waiting))
            if receiver.capacity() > 0:
                return receiver
            del self._waiting[receiver]
        return None

    def served(self, receiver: Consumer) -> None:
        """Put one behind the others."""
        del self._waiting[receiver]
        self._waiting[receiver] = None

    def turn_away(self, refusal: Refused) -> None:
        """Send all away."""
        attached, self._attached = self._attached, {}
        self._waiting.clear()
        for receiver in attached:
            receiver.turn_away(refusal)
