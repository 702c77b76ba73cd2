"""Why something is not done that was asked: each with the AMQP condition clients know it by.

Refused
├── BadRequest           400
│   └── TooMuchAtOnce
├── NotAllowed           400
│   ├── NotInDeadLetters
│   └── NotToDeadLetters
├── Unauthorized         401
├── EntityDisabled       403
├── QuotaExceeded        403
├── MessageNotFound      404
├── EntityNotFound       404
├── EntityExists         409
├── MessageLockLost      410
├── MessageTooLarge      413
└── NotServed            501
"""

from __future__ import annotations

from typing import ClassVar

from . import conditions

_LONGEST_QUOTE = 200


def quotable(text: str) -> str:
    """Return as much of a client's own text as a refusal quotes."""
    return text[:_LONGEST_QUOTE]


class Refused(Exception):
    """It is not done; the message says why.

    ``condition`` is the AMQP error, ``status`` the code of a response that carries it, over HTTP
    as well.
    """

    condition: ClassVar[str]
    status: ClassVar[int]


class MessageLockLost(Refused):
    """The lock has expired, was settled already, or never was."""

    condition = conditions.MESSAGE_LOCK_LOST
    status = 410

    def __init__(self) -> None:
        super().__init__(
            "The lock supplied is invalid. Either the lock expired, or the message has already "
            "been removed from the queue."
        )


class MessageNotFound(Refused):
    """No message of that sequence number is scheduled, or deferred and free."""

    condition = conditions.MESSAGE_NOT_FOUND
    status = 404

    def __init__(self, sequence: int) -> None:
        super().__init__(f"There is no such message with the sequence number {sequence}.")


class EntityNotFound(Refused):
    """There is no such queue."""

    condition = conditions.NOT_FOUND
    status = 404

    def __init__(self, name: str) -> None:
        super().__init__(f"The messaging entity '{quotable(name)}' could not be found.")


class EntityExists(Refused):
    """There is such a queue already."""

    condition = conditions.ENTITY_ALREADY_EXISTS
    status = 409

    def __init__(self, name: str) -> None:
        super().__init__(f"The messaging entity '{quotable(name)}' already exists.")


class BadRequest(Refused):
    """What was asked lacks something, or has it wrong."""

    condition = conditions.ARGUMENT_ERROR
    status = 400


class TooMuchAtOnce(BadRequest):
    """One response would be too large."""

    def __init__(self, size_bytes: int, most_bytes: int) -> None:
        super().__init__(
            f"The messages come to {size_bytes} bytes, and one response holds {most_bytes}: ask "
            "for fewer sequence numbers at a time."
        )


class NotServed(Refused):
    """The service does it, and this emulator does not yet."""

    condition = conditions.NOT_IMPLEMENTED
    status = 501


class NotAllowed(Refused):
    """It can never be done there."""

    condition = conditions.NOT_ALLOWED
    status = 400


class NotInDeadLetters(NotAllowed):
    """A dead letter cannot be dead-lettered again."""

    def __init__(self) -> None:
        super().__init__("A dead letter cannot be dead-lettered again.")


class NotToDeadLetters(NotAllowed):
    """A dead-letter queue takes dead letters alone, under the numbers they have."""

    def __init__(self) -> None:
        super().__init__("Messages cannot be sent to a dead-letter queue.")


class EntityDisabled(Refused):
    """The queue's status forbids it."""

    condition = conditions.ENTITY_DISABLED
    status = 403


class Unauthorized(Refused):
    """The token is none, has expired or is for something else; or there is none that covers it."""

    condition = conditions.UNAUTHORIZED
    status = 401


class QuotaExceeded(Refused):
    """The queue holds as much as it may, or more."""

    condition = conditions.RESOURCE_LIMIT_EXCEEDED
    status = 403

    def __init__(self, path: str, size_bytes: int, most_bytes: int) -> None:
        super().__init__(
            f"The maximum size of queue '{path}' has been reached or exceeded: it holds "
            f"{size_bytes} bytes, and may hold {most_bytes}. Receive messages and dead letters, or "
            "raise MaxSizeInMegabytes."
        )


class MessageTooLarge(Refused):
    """The namespace's tier takes no message of that size."""

    condition = conditions.MESSAGE_SIZE_EXCEEDED
    status = 413

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The message is larger than the {limit_bytes} bytes this queue takes.")
