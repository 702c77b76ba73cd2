"""Every error the platform raises on purpose.

::

    BpaError
    +-- SettingsError          a wrong setting; every wrong key is reported at once
    +-- StartupError           a dependency of the start is missing or taken
    +-- Unavailable            a dependency is away; try again
    +-- NotFound
    +-- NotAllowed             who asks may not
    +-- Conflict               the state does not allow it
    |   +-- StaleLease         a fenced write: the lease has moved on (I3)
    |   +-- Changed            an edit of what has changed since it was looked at (If-Match)
    +-- InvalidRequest         the caller's input is wrong
    |   +-- Unguarded          an edit that does not say what it was made from (If-Match)
    +-- RunEnded               the run ends here, with a dead-letter reason

A class carries a stable ``code``, whether trying again can help, and its HTTP and gRPC status.
Edges map them with those attributes alone; the message says what to do next.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Reason(StrEnum):
    """Why a message is dead-lettered: a closed set, also the dead letter's reason header."""

    DESERIALIZATION_ERROR = "DeserializationError"
    SCHEMA_VALIDATION_FAILED = "SchemaValidationFailed"
    PAYLOAD_TOO_LARGE = "PayloadTooLarge"
    NON_RETRYABLE_HTTP_STATUS = "NonRetryableHttpStatus"
    RETRIES_EXHAUSTED = "RetriesExhausted"
    ATTEMPTS_EXHAUSTED = "AttemptsExhausted"
    CRASH_LOOP = "CrashLoop"
    BUDGET_EXCEEDED = "BudgetExceeded"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    POLICY_DENIED = "PolicyDenied"
    OUTCOME_UNKNOWN = "OutcomeUnknown"
    SANDBOX_PROTOCOL = "SandboxProtocol"
    AGENT_ERROR = "AgentError"
    CANCELLED = "Cancelled"


class BrokerReason(StrEnum):
    """Why a message lies in the dead-letter queue that the platform did not put there."""

    MAX_DELIVERY_COUNT_EXCEEDED = "MaxDeliveryCountExceeded"
    TTL_EXPIRED = "TTLExpiredException"
    HEADER_SIZE_EXCEEDED = "HeaderSizeExceeded"
    ELSEWHERE = "DeadLetteredElsewhere"
    """By another receiver of the queue; its own words are in the detail."""


class GrpcStatus(StrEnum):
    """The gRPC status names an error maps to."""

    UNAVAILABLE = "UNAVAILABLE"
    NOT_FOUND = "NOT_FOUND"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    INTERNAL = "INTERNAL"


class BpaError(Exception):
    """The root of the platform's own errors."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    http_status: ClassVar[int] = 500
    grpc_status: ClassVar[GrpcStatus] = GrpcStatus.INTERNAL
    exit_code: ClassVar[int] = 1


class SettingsError(BpaError):
    """One or more settings are wrong; ``problems`` holds a line for each."""

    code = "settings"
    exit_code = 2

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StartupError(BpaError):
    """The process cannot start; the message is one line that says what to do."""

    code = "startup"


class Unavailable(BpaError):
    """A dependency does not answer; the same call may succeed later."""

    code = "unavailable"
    retryable = True
    http_status = 503
    grpc_status = GrpcStatus.UNAVAILABLE
    exit_code = 6


class NotFound(BpaError):
    """What was named does not exist."""

    code = "not_found"
    http_status = 404
    grpc_status = GrpcStatus.NOT_FOUND
    exit_code = 3


class NotAllowed(BpaError):
    """Who asks may not do this."""

    code = "not_allowed"
    http_status = 403
    grpc_status = GrpcStatus.PERMISSION_DENIED
    exit_code = 4


class Conflict(BpaError):
    """The present state does not allow the request."""

    code = "conflict"
    http_status = 409
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    exit_code = 5


class StaleLease(Conflict):
    """A write under a lease that has ended or moved on; it changed nothing."""

    code = "stale_lease"


class Changed(Conflict):
    """What is to be edited has changed since it was looked at; look again."""

    code = "changed"
    http_status = 412


class InvalidRequest(BpaError):
    """The caller's input is wrong; ``errors`` names each field and what it must be."""

    code = "invalid_request"
    http_status = 400
    grpc_status = GrpcStatus.INVALID_ARGUMENT
    exit_code = 2

    def __init__(self, message: str, errors: list[str] | None = None) -> None:
        super().__init__(message)
        self.errors = errors or []


class Unguarded(InvalidRequest):
    """An edit does not say which state it was made from."""

    code = "unguarded"
    http_status = 428


class RunEnded(BpaError):
    """The run can only end in the dead-letter queue, for ``reason``.

    Args:
        reason: The dead letter's reason.
        detail: One line for the operator: what happened and what to do; never a payload.
    """

    code = "run_ended"
    http_status = 422

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
