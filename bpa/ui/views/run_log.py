"""The log of a run: what happened to it, line by line, and where the processes' own lines are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bpa.control.rest.run_events import RunEvent, events
from bpa.control.rest.run_schemas import Run
from bpa.ui.views.run_facts import Outside, address
from bpa.words import span

_EVENTS = {
    "run.cancel": "asked to cancel it",
    "run.retry": "had it tried at once",
    "run.look": "looked at its contents",
    "dead_letter.replay": "replayed its dead letter",
    "dead_letter.continue": "went on with a replay of its dead letter",
    "dead_letter.settle": "removed its dead letter",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line."""

    at: datetime
    level: str
    """``info`` or ``error``."""
    who: str
    what: str
    took: str
    said: str
    """What went wrong, or what somebody said."""
    by_person: bool


@dataclass(frozen=True, slots=True)
class Log:
    """All lines."""

    run_id: str
    lines: Sequence[Line]
    address: str
    """Where the processes' own lines are; empty where no setting says."""
    command: str

    @property
    def said(self) -> str:
        """What changed, in a sentence for who listens to the page."""
        return f"{len(self.lines)} lines"


def log(run: Run, notes: Sequence[Mapping[str, Any]], outside: Outside) -> Log:
    """Return what is shown.

    Args:
        run: The run.
        notes: Rows of the audit about it.
        outside: Where others keep log lines.
    """
    return Log(
        run_id=run.run_id,
        lines=[_line(event) for event in events(run, notes)],
        address=address(outside.logs, run),
        command=f"bpa runs logs {run.run_id} --follow",
    )


def _line(event: RunEvent) -> Line:
    attempt = f", attempt {event.attempt}" if event.attempt > 1 else ""
    return Line(
        at=event.timestamp,
        level=event.level,
        who=event.actor or event.node_id or "control",
        what=_EVENTS.get(event.event, event.event) + attempt,
        took=span(event.took_s) if event.took_s is not None else "",
        said=": ".join(part for part in (event.error, event.detail) if part),
        by_person=bool(event.actor),
    )
