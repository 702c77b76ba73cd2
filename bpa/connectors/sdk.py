"""The values and protocols of a connector; no client library is imported here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from bpa.errors import BpaError, GrpcStatus

PropertyValue = str | int | float | bool

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SettlementLost(BpaError):
    """The message can no longer be settled or renewed by us: its lock or its link is gone.

    Nothing is broken: the broker delivers the message again, and that delivery is settled. It is
    also raised when the link dropped while a settlement was under way and nobody can say whether
    it was applied.
    """

    code = "settlement_lost"
    http_status = 409
    grpc_status = GrpcStatus.FAILED_PRECONDITION


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message that the broker has locked for us."""

    body: bytes
    """The body, data sections joined; empty when ``undecodable`` is set."""
    sequence_number: int
    """The broker's number of the message, unique in its queue for ever."""
    enqueued_ms: int
    """When the broker accepted it, milliseconds since the epoch, as the broker wrote it."""
    locked_until: datetime
    """Until when the lock held when the message arrived, aware UTC; ``renew`` returns newer ones.
    """
    delivery_count: int = 0
    """Earlier deliveries that ended without settlement; 0 on the first."""
    content_type: str | None = None
    message_id: str | None = None
    correlation_id: str | None = None
    properties: Mapping[str, PropertyValue] = field(default_factory=dict)
    """Application properties; what has no place in ``PropertyValue`` stands as text."""
    traceparent: str | None = None
    """The sender's W3C trace context, when there is a valid one."""
    tracestate: str | None = None
    undecodable: str | None = None
    """Why the body is not bytes at all (an AMQP value or sequence); None for a normal body."""
    receipt: object = field(default=None, repr=False, compare=False)
    """What the source needs to settle it; opaque to everybody else."""

    @property
    def enqueued_at(self) -> datetime:
        """When the broker accepted the message, aware UTC, exact to the millisecond."""
        return _EPOCH + timedelta(milliseconds=self.enqueued_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingMessage:
    """A message to publish."""

    body: bytes
    content_type: str = "application/json"
    message_id: str | None = None
    """None lets the publisher draw one."""
    properties: Mapping[str, PropertyValue] = field(default_factory=dict)
    traceparent: str | None = None
    tracestate: str | None = None


class Source(Protocol):
    """A queue that is read with locks.

    All methods may be called concurrently. Settling and renewing raise ``SettlementLost`` when the
    lock or the link is gone, and ``Unavailable`` when the broker is too busy: then the lock still
    stands, and the same call may be made again.
    """

    async def open(self) -> None:
        """Connect and verify that the queue exists.

        Raises:
            NotFound: The queue does not exist.
            StartupError: The address or the credentials are wrong.
            Unavailable: Nobody answers there now.
        """

    async def receive(self, max_wait_s: float) -> Message | None:
        """Wait for one message; None when none came within ``max_wait_s`` seconds.

        Nothing is fetched from the broker unless a call waits, and a cancelled or timed-out call
        keeps nothing locked: what arrives too late goes back without counting as a delivery.

        Raises:
            Unavailable: The broker stayed out of reach for the whole wait.
            NotFound: The queue has been deleted.
        """

    async def complete(self, message: Message) -> None:
        """Remove the message; returns when the broker has confirmed it."""

    async def abandon(self, message: Message) -> None:
        """Unlock the message for another delivery, which the broker counts."""

    async def dead_letter(self, message: Message, reason: str, description: str) -> None:
        """Move the message to the dead-letter queue with a reason and a line for people."""

    async def renew(self, message: Message) -> datetime:
        """Extend the lock and return until when it now holds, aware UTC."""

    async def aclose(self) -> None:
        """Disconnect; what is still locked is delivered again once its lock has run out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundRequest:
    """One external effect: the same key and the same bytes on every try."""

    url: str
    body: bytes = field(repr=False)
    idempotency_key: str
    content_type: str = "application/json"
    deadline_s: float | None = None
    """On the monotonic clock: no try runs and no pause lasts beyond it; None for no limit."""
    timeout_s: float | None = None
    """The limit of one try, from connecting to the end of the answer; None is the sink's own."""
    idempotent: bool = True
    """Whether the target applies one key once; if not, what may have been applied is not sent
    again."""
    traceparent: str | None = None
    tracestate: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Further headers from the deployment; may hold credentials, hence not in the repr."""
    before_try: Callable[[], None] | None = field(default=None, repr=False)
    """Called before each try, and again right before its first byte leaves, once it is connected;
    what it raises ends the effect, with nothing more sent."""
    after_try: Callable[[OutboundTry], None] | None = field(default=None, repr=False)
    """Called right after each try."""
    pause: Callable[[float], Awaitable[None]] | None = field(default=None, repr=False)
    """Waits between tries, at most so many seconds; None is the sink's own way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundTry:
    """What one try came to, for telemetry."""

    number: int
    """1 for the first."""
    status: int | None
    """The HTTP status; None when no answer came."""
    elapsed_ms: float
    error: str | None = None
    """The kind of transport error when no answer came."""
    cut_short: bool = False
    """Whether the effect's deadline ended it before its own time was over."""
    in_doubt: bool = False
    """Whether the target may have applied the effect, though it did not say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundResult:
    """The answer that ended the effect."""

    status: int
    tries: int
    elapsed_ms: float
    """From the first try's start to the answer, pauses included."""
    excerpt: str
    """The first characters of the answer's body, without control characters."""


class Sink(Protocol):
    """A place where effects are applied."""

    async def send(self, request: OutboundRequest) -> OutboundResult:
        """Send the effect until it is answered with success.

        Raises:
            RunEnded: With ``RETRIES_EXHAUSTED``, ``NON_RETRYABLE_HTTP_STATUS`` or
                ``DEADLINE_EXCEEDED``; with ``OUTCOME_UNKNOWN`` at once where an effect that is not
                idempotent may have been applied. None of the others leaves such an effect applied.
        """
