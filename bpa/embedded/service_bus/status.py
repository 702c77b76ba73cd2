"""Hold clients to a queue's status, as Microsoft's page "Suspend and reactivate" says.

Browsing is allowed whatever the status is (Azure/azure-service-bus#147), and so is the removal of
a scheduled message while only sending is disabled (Azure/azure-sdk-for-net#22454).
"""

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


def check_cancels(status: Status, path: str) -> None:
    """Raise EntityDisabled unless scheduled messages may be taken back there."""
    if status is Status.DISABLED:
        raise EntityDisabled(f"Queue '{path}' is disabled.")


def check_receives(status: Status, path: str) -> None:
    """Raise EntityDisabled unless messages may be received there and settled."""
    if not receives(status):
        raise receiving_disabled(path)


def receiving_disabled(path: str) -> EntityDisabled:
    """Return what a receiver is turned away with."""
    return EntityDisabled(f"Receiving from queue '{path}' is disabled.")
