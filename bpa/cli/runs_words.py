"""What a run's state is called, and why it waits or how it ended, in words."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.text import Text

from bpa.cli.tables import status
from bpa.control.rest.run_schemas import RunSummary
from bpa.words import span


def state(run: RunSummary) -> Text:
    """Return a run's state; one that somebody wants ended is cancelling."""
    return Text("cancelling", style="yellow") if run.cancelling else status(run.status)


def why(run: RunSummary) -> str:
    """Say why a run waits, or how it ended."""
    if run.waiting_reason:
        return waits_for(run)
    replayed = f"replayed as {run.replayed_as}" if run.replayed_as else ""
    ended = ": ".join(part for part in (run.reason, run.detail) if part)
    return "; ".join(part for part in (replayed, ended) if part)


def waits_for(run: RunSummary) -> str:
    """Say what a run waits for, and when it is tried next; empty when it does not wait."""
    if run.waiting_reason is None or run.waiting_until is None:
        return run.waiting_reason or ""
    left_s = (run.waiting_until - datetime.now(UTC)).total_seconds()
    soon = f", in {span(left_s)}" if left_s > 0 else ""
    return f"{run.waiting_reason}; next try at {run.waiting_until:%H:%M:%S} UTC{soon}"
