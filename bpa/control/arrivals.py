"""A message that arrived, and what is written down of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bpa.domain.runs import RunId, RunStatus
from bpa.errors import BrokerReason, Reason
from bpa.telemetry.spans import SpanContext


@dataclass(frozen=True, slots=True)
class Arrival:
    """One delivery of one message, decoded."""

    run_id: RunId
    agent_id: str
    version: str
    dep_id: str
    input_ref: Mapping[str, Any]
    document: bytes
    """Empty when the message could not be decoded."""
    body_sha256: bytes
    trace_id: str
    traceparent: str
    tracestate: str
    enqueued_at: datetime
    effect_key: str
    delivery_count: int
    reason: Reason | BrokerReason | None = None
    """Set when the run ends here."""
    detail: str | None = None
    inherits_from: RunId | None = None
    """The run whose journal it goes on from, as a replay with the same body does."""
    received_at: datetime | None = None
    """When the message was here, by our clock."""
    message: Mapping[str, Any] | None = None
    """What is kept of it beside its body: see ``message_properties``."""
    revision: int | None = None
    """The deployment's, which says what the agent is told; None stands for the present one."""
    sender: str = ""
    """The ``traceparent`` that the message carries; ``traceparent`` is that of ``receive``."""


def arrival_row(arrival: Arrival, owner: str, *, exports_traces: bool) -> dict[str, Any]:
    """Return an arrival as the statement ``receive`` takes it, but for its bytes.

    Args:
        arrival: What arrived.
        owner: The replica that received it.
        exports_traces: Whether spans are exported at all; its sender may not want this one's.
    """
    span = SpanContext.parse(arrival.traceparent)
    return {
        "run_id": arrival.run_id,
        "agent_id": arrival.agent_id,
        "version": arrival.version,
        "dep_id": arrival.dep_id,
        "input_ref": arrival.input_ref,
        "status": RunStatus.DEAD_LETTERED if arrival.reason else RunStatus.QUEUED,
        "reason": arrival.reason,
        "detail": arrival.detail,
        "trace_id": arrival.trace_id,
        "traceparent": arrival.traceparent,
        "tracestate": arrival.tracestate,
        "enqueued_at": arrival.enqueued_at,
        "effect_key": arrival.effect_key,
        "owner": owner,
        "delivery_count": arrival.delivery_count,
        "inherits_from": arrival.inherits_from,
        "received_at": arrival.received_at,
        "sender": arrival.sender,
        "message": arrival.message,
        "revision": arrival.revision,
        "traced": exports_traces and span is not None and span.is_sampled,
    }
