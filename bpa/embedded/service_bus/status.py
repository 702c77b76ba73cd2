"""Hold clients to a queue's status."""

from __future__ import annotations

from .config import Status
from .refusals import EntityDisabled

_SENDS = (Status.ACTIVE, Status.RECEIVE_DISABLED)
_RECEIVES = (Status.ACTIVE, Status.SEND_DISABLED)


def receives(status: Status) -> bool:
    """Whether messages may be received and settled."""
    return status in _RECEIVES


def check_sends(status: Status, path: str) -> None:
    """Raise EntityDisabled unless messages may be sent to the queue of that path."""
    if status not in _SENDS:
        raise EntityDisabled(f"Sending to queue '{path}' is disabled.")


def check_receives(status: Status, path: str) -> None:
    """Raise EntityDisabled unless messages may be received there and settled."""
    if not receives(status):
        raise receiving_disabled(path)


def receiving_disabled(path: str) -> EntityDisabled:
    """Return what a receiver is turned away with."""
    return EntityDisabled(f"Receiving from queue '{path}' is disabled.")
