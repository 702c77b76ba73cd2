"""When to try again: pure rules for backoff, jitter and Retry-After.

Nothing here sleeps, draws or reads a clock; the caller passes ``now`` and ``draw``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

TOO_MANY_REQUESTS = 429
"""The one client error that another try may mend."""

STATUSES_WITH_RETRY_AFTER = frozenset({409, 429, 503})
"""The statuses on which Retry-After is honoured; 409 is "still in flight" under a key."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently a call is tried.

    The ceiling of the n-th pause is ``base_s * 2**(n-1)``, at most ``cap_s``; the pause is drawn
    uniformly below it ("full jitter", AWS Architecture Blog, Exponential Backoff And Jitter).
    """

    tries: int = 4
    """Tries in all, the first one included."""
    base_s: float = 0.2
    """Ceiling of the first pause, seconds."""
    cap_s: float = 5.0
    """Ceiling of every pause, seconds."""
    retry_after_cap_s: float = 30.0
    """The longest Retry-After that is waited for, seconds; a longer one is cut to this."""

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ValueError("tries must be at least 1: the first try counts")
        if min(self.base_s, self.cap_s, self.retry_after_cap_s) < 0:
            raise ValueError("pauses must not be negative")


def is_retryable_status(status: int) -> bool:
    """Tell whether an answer with this HTTP status may differ on the next try."""
    return status >= 500 or status == TOO_MANY_REQUESTS


def ceiling_s(policy: RetryPolicy, tries_made: int) -> float:
    """Return the longest pause, in seconds, after ``tries_made`` tries (1 or more)."""
    doublings = min(max(tries_made, 1) - 1, 62)  # beyond that every ceiling is cap_s anyway
    return float(min(policy.cap_s, policy.base_s * 2**doublings))


def pause_s(
    policy: RetryPolicy, tries_made: int, draw: float, retry_after_s: float | None = None
) -> float:
    """Return the pause, in seconds, before the next try.

    Args:
        policy: The rules.
        tries_made: Tries made so far, 1 or more.
        draw: A uniform draw from [0, 1).
        retry_after_s: What the other side asked for. It is a lower bound up to
            ``retry_after_cap_s``; a jitter of at most ``base_s`` comes on top, so that callers
            who were all told the same second do not return as one.
    """
    if retry_after_s is not None:
        return min(max(retry_after_s, 0.0), policy.retry_after_cap_s) + draw * policy.base_s
    return draw * ceiling_s(policy, tries_made)


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds that a Retry-After header asks for; None when it says nothing usable.

    Both forms of RFC 9110, 10.2.3 are read: delay-seconds and HTTP-date (past dates give 0).
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])  # nobody means more than 31 years; a longer number is cut
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max((at - now).total_seconds(), 0.0)
