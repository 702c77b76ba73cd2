"""What happened to a run, line by line: its log, of what Postgres keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from bpa.control.rest.run_schemas import Run, StageView
from bpa.control.rest.schemas import Document, Time


class RunEvent(Document, frozen=True):
    """One line of a run's log."""

    id: str
    """The same whenever it is read."""
    timestamp: Time
    level: Literal["info", "error"]
    event: str
    """A stage or step that is over, or what somebody did to the run, as ``run.cancel``."""
    run_id: str
    trace_id: str
    span_id: str
    """Empty for what somebody did."""
    node_id: str
    """The node that did it; empty for control."""
    actor: str
    """Who did it; empty where no person did."""
    attempt: int
    took_s: float | None
    error: str
    detail: str
    attributes: dict[str, Any]


def events(run: Run, notes: Sequence[Mapping[str, Any]] = ()) -> list[RunEvent]:
    """Return what is over, in the order in which it ended.

    Args:
        run: The run.
        notes: Rows of the audit about it.
    """
    both = [*_stages(run), *(_note(run, note) for note in notes)]
    return sorted(both, key=lambda event: event.timestamp)


def _stages(run: Run) -> Iterator[RunEvent]:
    for stage in run.timeline:
        if stage.ended_at is not None:
            yield RunEvent(
                id=stage.span_id,
                timestamp=stage.ended_at,
                level="error" if stage.error else "info",
                event=stage.name,
                run_id=run.run_id,
                trace_id=run.trace_id,
                span_id=stage.span_id,
                node_id=stage.node_id,
                actor="",
                attempt=stage.attempt,
                took_s=_took_s(stage, stage.ended_at),
                error=stage.error,
                detail=stage.detail,
                attributes=stage.attributes,
            )


def _took_s(stage: StageView, ended_at: datetime) -> float:
    return max(0.0, (ended_at - stage.started_at).total_seconds())


def _note(run: Run, note: Mapping[str, Any]) -> RunEvent:
    told = note["detail"]
    return RunEvent(
        id=f"audit-{note['audit_id']}",
        timestamp=note["at"],
        level="info",
        event=note["action"],
        run_id=run.run_id,
        trace_id=run.trace_id,
        span_id="",
        node_id="",
        actor=note["actor"],
        attempt=0,
        took_s=None,
        error="",
        detail=str(told.get("detail") or told.get("why") or ""),
        attributes=told,
    )
