"""The list of runs, and what is typed into its search."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from bpa.control.rest.run_schemas import RunSummary
from bpa.control.searches import COUNTED_AT_MOST
from bpa.domain.runs import RunStatus
from bpa.ui.views import status
from bpa.ui.words import count
from bpa.words import clock, segment, span, usd

_STATUS = re.compile(r"(?<!\S)status:(\S*)")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a search asks for."""

    text: str = ""
    """As it was typed."""
    problem: str = ""
    """Why it cannot be read."""

    @property
    def status(self) -> str:
        """The state that it asks for, if it does."""
        found = _STATUS.search(self.text)
        return found[1].lower() if found else ""

    @property
    def others(self) -> str:
        """Whatever else it asks for."""
        return " ".join(_STATUS.sub("", self.text).split())


@dataclass(frozen=True, slots=True)
class Tab:
    """A way to narrow the list down."""

    text: str
    number: str
    path: str
    is_here: bool
    icon: str = ""
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A run in the list."""

    run: RunSummary
    badge: status.Badge
    way: Sequence[status.Bead]
    what: str
    """Whose invoice it is, or which message."""
    took: str
    tokens: str
    cost: str
    why: str
    path: str


@dataclass(frozen=True, slots=True)
class Runs:
    """The whole page."""

    asked: Asked
    lines: Sequence[Line]
    tabs: Sequence[Tab]
    number: str
    """How many there are of what was searched for, where that is known."""
    newer_path: str
    """The first page; empty on it."""
    older_path: str
    """The next page; empty on the last one."""
    command: str

    @property
    def said(self) -> str:
        """What changed, in a sentence for who listens to the page."""
        shown = [tab for tab in self.tabs if tab.number]
        return ", ".join(f"{tab.text} {tab.number}" for tab in shown)


def runs(
    rows: Sequence[RunSummary],
    alive: Sequence[Mapping[str, Any]],
    overall: Mapping[str, Any],
    asked: Asked,
    *,
    number: int | None,
    cursor: str | None,
    following: str | None,
) -> Runs:
    """Return what the page shows.

    Args:
        rows: One page of runs.
        alive: Living runs counted by status.
        overall: Runs that ended in the last hour, counted.
        asked: The search.
        number: Of what is searched for, as far as it was counted.
        cursor: Where this page begins; None for the first one.
        following: Where the next one begins.
    """
    return Runs(
        asked=asked,
        lines=[line(run) for run in rows],
        tabs=_tabs(alive, overall, asked),
        number=_number(number),
        newer_path=_path(asked.text) if cursor else "",
        older_path=_path(asked.text, following) if following else "",
        command=_command(asked),
    )


def _number(number: int | None) -> str:
    if number is None:
        return ""
    if number > COUNTED_AT_MOST:
        return f"more than {count(COUNTED_AT_MOST)} runs"
    return f"{count(number)} run{'' if number == 1 else 's'}"


def line(run: RunSummary) -> Line:
    """Return a run as a list shows it."""
    took = (run.ended_at - run.created_at).total_seconds() if run.ended_at else None
    return Line(
        run=run,
        badge=status.of_run(run),
        way=status.way_of(run),
        what=" ".join(part for part in (run.vendor, run.invoice_id) if part)
        or run.message_id
        or "",
        took=span(took) if took is not None else "",
        tokens=count(run.tokens_used) if run.tokens_used else "",
        cost=usd(run.cost_usd) if run.tokens_used else "",
        why=why(run),
        path=f"/ui/runs/{segment(run.run_id)}",
    )


def why(run: RunSummary) -> str:
    """Say what a run waits for, or how it ended, in the words of the command line."""
    if run.waiting_reason:
        if run.waiting_until:
            return f"{run.waiting_reason}; next try at {clock(run.waiting_until)}"
        return run.waiting_reason
    return ": ".join(part for part in (run.reason, run.detail) if part)


def _tabs(
    alive: Sequence[Mapping[str, Any]], overall: Mapping[str, Any], asked: Asked
) -> list[Tab]:
    live = {one: sum(row["runs"] for row in alive if row["status"] == one) for one in RunStatus}
    numbers = {
        RunStatus.QUEUED: count(live[RunStatus.QUEUED]),
        RunStatus.RUNNING: count(live[RunStatus.RUNNING] + live[RunStatus.OFFERED]),
        RunStatus.COMPLETED: f"{count(overall['completed'])}/h",
        RunStatus.DEAD_LETTERED: f"{count(overall['dead_lettered'])}/h",
    }
    tabs = [Tab("all", "", _path(asked.others), not asked.status)]
    for one, number in numbers.items():
        badge = status.of_status(one)
        path = _path(f"{asked.others} status:{one}".strip())
        tabs.append(Tab(badge.text, number, path, asked.status == one, badge.icon, badge.tone))
    return tabs


def _path(text: str, cursor: str | None = None) -> str:
    query = urlencode({name: value for name, value in (("q", text), ("cursor", cursor)) if value})
    return f"/ui/runs?{query}" if query else "/ui/runs"


def _command(asked: Asked) -> str:
    return f"bpa runs list --status {asked.status}" if asked.status else "bpa runs list"
