"""The identity of a run's spans: every one follows from its run, so that a span has one name only.

A run's trace is written from its history in Postgres, once the run has ended or is late, and again
where it is not known whether the collector has it: the same span has the same id each time. Whoever
passes a trace on meanwhile (a node to the target, a replay in its message) derives the same ids.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class SpanContext:
    """A span as W3C's Trace Context names it; all hex."""

    trace_id: str
    """32 digits."""
    span_id: str
    """16 digits."""
    flags: str = "01"

    @classmethod
    def parse(cls, traceparent: str) -> SpanContext | None:
        """Read a ``traceparent`` header; None for one that is malformed or names nothing.

        By the rules of W3C Trace Context, section 3.2.2: version ff and ids of zeros are invalid,
        and what a later version appends is passed over.
        """
        match = _TRACEPARENT.fullmatch(traceparent)
        if match is None or traceparent.startswith("ff"):
            return None
        if not int(match[1], 16) or not int(match[2], 16):
            return None
        if match[4] and traceparent.startswith("00"):
            return None
        return cls(match[1], match[2], match[3])

    @property
    def is_sampled(self) -> bool:
        """Whether whoever began the trace wants it recorded."""
        return bool(int(self.flags, 16) & _SAMPLED)

    def child(self, span_id: str) -> SpanContext:
        """Return another span of the same trace."""
        return SpanContext(self.trace_id, span_id, self.flags)

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


def span_id(run_id: str, name: str, epoch: int = 0, seq: int = 0) -> str:
    """Return the id of a run's span.

    Args:
        run_id: Of the run.
        name: Of the span: ``receive``, ``think``, ``http.out``.
        epoch: The lease under which it was worked; 0 for what a run has once.
        seq: The step of the journal; 0 for what is no step.
    """
    return _digest(f"{run_id} {name} {epoch} {seq}", 8)


def fields_of(run_id: str, trace_id: str, name: str, epoch: int = 0) -> dict[str, str]:
    """Return the fields by which a log line belongs to a run's span; see `span_id`."""
    return {"run_id": run_id, "trace_id": trace_id, "span_id": span_id(run_id, name, epoch)}


def received(run_id: str, sender: str) -> SpanContext:
    """Return the span ``receive`` of a run: in its sender's trace, or in one of its own.

    Args:
        run_id: Of the run.
        sender: The ``traceparent`` of its message, or nothing.
    """
    parent = SpanContext.parse(sender) or replaying(run_id)
    return parent.child(span_id(run_id, "receive"))


def replaying(run_id: str) -> SpanContext:
    """Return the span ``replay`` that begins the trace of a replay, from the new run's id."""
    return SpanContext(_digest(f"{run_id} trace", 16), span_id(run_id, "replay"))


def _digest(text: str, size: int) -> str:
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()
