"""What a queue may be used for; an administrator says so."""

from __future__ import annotations

from enum import Enum

from .refusals import EntityDisabled


class Status(Enum):
    """A queue's status, by the name the administration API gives it."""

    ACTIVE = "Active"
    DISABLED = "Disabled"
    SEND_DISABLED = "SendDisabled"
    RECEIVE_DISABLED = "ReceiveDisabled"

    @property
    def sends(self) -> bool:
        """Whether messages may be sent to the queue."""
        return self in (Status.ACTIVE, Status.RECEIVE_DISABLED)

    @property
    def receives(self) -> bool:
        """Whether messages may be received and settled."""
        return self in (Status.ACTIVE, Status.SEND_DISABLED)

    def check_sends(self, path: str) -> None:
        """Raise EntityDisabled unless messages may be sent to the queue of that path."""
        if not self.sends:
            raise EntityDisabled(f"Sending to queue '{path}' is disabled.")

    def check_receives(self, path: str) -> None:
        """Raise EntityDisabled unless messages may be received there and settled."""
        if not self.receives:
            raise receiving_disabled(path)


def receiving_disabled(path: str) -> EntityDisabled:
    """Return what a receiver is turned away with."""
    return EntityDisabled(f"Receiving from queue '{path}' is disabled.")
