"""Reports of steps: how they are batched, written as rows, and refused. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import msgspec

from bpa.domain.journal import EffectCall, ModelCall, Step, StepKind
from bpa.domain.runs import RunId, RunStatus
from bpa.errors import Conflict, StaleLease

StepReport = tuple[RunId, int, Step]
"""A step of a run under an epoch."""


class StepState(StrEnum):
    """What is known of a step."""

    IN_FLIGHT = "in_flight"
    """Its execution still waits for the answer."""
    RECORDED = "recorded"
    REFUSED = "refused"
    """Answered with an error: the model used nothing, or the effect was not applied."""
    UNKNOWN = "unknown"
    """A model call whose answer was lost: it was billed for its reservation at most."""
    UNANSWERED = "unanswered"
    """An effect whose answer was lost or was none: the run's reason tells more."""


def states_of(run: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> list[StepState]:
    """Return the state of each of a run's steps, which are given in order.

    An execution makes one call at a time, so only the last step of the one that holds the lease can
    be in flight: an earlier try of its call that has no answer has lost it.
    """
    works = run["status"] == RunStatus.RUNNING
    last = len(steps) - 1
    return [
        _state(step, may_wait=works and index == last and step["epoch"] == run["lease_epoch"])
        for index, step in enumerate(steps)
    ]


def _state(step: Mapping[str, Any], *, may_wait: bool) -> StepState:
    if step["refused"]:
        return StepState.REFUSED
    if step["answered"]:
        return StepState.RECORDED
    if may_wait:
        return StepState.IN_FLIGHT
    return StepState.UNKNOWN if step["kind"] == StepKind.MODEL else StepState.UNANSWERED


def call_of(row: Mapping[str, Any]) -> ModelCall | EffectCall | None:
    """Return what a step says of its call, from its row."""
    return msgspec.convert(row["call"], ModelCall | EffectCall | None)


def step_row(run_id: RunId, epoch: int, step: Step) -> dict[str, Any]:
    """Return a report as ``record_steps`` takes it, but for its bytes."""
    return {
        "run_id": run_id,
        "epoch": epoch,
        "seq": step.seq,
        "kind": step.kind,
        "digest": step.digest,
        "effect_key": step.effect_key if step.kind is StepKind.EFFECT else None,
        "reserved_tokens": step.reserved_tokens,
        "call": step.call,
        "usage": step.usage if step.answer is not None else None,
        "cost_usd": step.usage.cost_usd,
        "started_at_ms": step.started_at_ms,
        "ended_at_ms": step.ended_at_ms,
    }


def unrecorded(item: StepReport, held: Mapping[tuple[str, int, int], bool]) -> Exception | None:
    """Return why a step was not recorded; ``held`` tells it of those whose lease stands."""
    run_id, epoch, step = item
    recorded = held.get((run_id, epoch, step.seq))
    if recorded is None:
        return stale(run_id, epoch)
    if recorded:
        return None
    return Conflict(
        f"step {step.seq} of run {run_id} is recorded with another request, other bytes or another "
        "answer; start over from the recorded journal"
    )


def distinct(items: Sequence[StepReport]) -> list[list[int]]:
    """Split so that no part names a step twice: one statement may write a row once.

    Returns:
        Parts of the indexes of ``items``.
    """
    parts: list[dict[tuple[str, int], int]] = []
    for index, (run_id, _, step) in enumerate(items):
        key = (run_id, step.seq)
        part = next((p for p in parts if key not in p), None)
        if part is None:
            parts.append(part := {})
        part[key] = index
    return [list(part.values()) for part in parts]


def stale(run_id: RunId, epoch: int) -> StaleLease:
    """Return what a report under an earlier lease is answered with."""
    return StaleLease(f"the lease {epoch} of run {run_id} has moved on; stop working on it")
