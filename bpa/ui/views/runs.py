"""The list of runs, and what is typed into its search."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from bpa.control.rest.schemas import RunSummary
from bpa.domain import RunStatus
from bpa.ui.views import status
from bpa.ui.words import clock, count, segment, span, usd

_QUALIFIER = re.compile(r'(\w+):("[^"]*"|\S+)')


@dataclass(frozen=True, slots=True)
class Asked:
    """What a search asks for."""

    text: str = ""
    """As it was typed."""
    status: RunStatus | None = None
    deployment: str | None = None
    run_id: str | None = None
    """A run that is named whole: it is shown at once."""
    problems: Sequence[str] = ()
    """What of it was not understood, and what is."""


def asked(text: str) -> Asked:
    """Return what a search asks for: ``status:``, ``deployment:``, or a run's id."""
    found: dict[str, Any] = {}
    problems = []
    for name, value in _QUALIFIER.findall(text):
        value = value.strip('"')
        if name == "status":
            try:
                found["status"] = RunStatus(value.replace("-", "_"))
            except ValueError:
                known = ", ".join(one.value.replace("_", "-") for one in RunStatus)
                problems.append(f"there is no status {value}; there are {known}")
        elif name in ("deployment", "dep"):
            found["deployment"] = value
        else:
            problems.append(f"{name}: is no qualifier here; there are status: and deployment:")
    rest = _QUALIFIER.sub("", text).strip()
    if rest:
        try:
            found["run_id"] = str(uuid.UUID(rest))
        except ValueError:
            problems.append(f"{rest} is no run's id: paste it whole")
    return Asked(text=text, problems=problems, **found)


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
    cursor: str | None,
    following: str | None,
) -> Runs:
    """Return what the page shows.

    Args:
        rows: One page of runs.
        alive: Living runs counted by status.
        overall: Runs that ended in the last hour, counted.
        asked: The search.
        cursor: Where this page begins; None for the first one.
        following: Where the next one begins.
    """
    return Runs(
        asked=asked,
        lines=[line(run) for run in rows],
        tabs=_tabs(alive, overall, asked),
        newer_path=_path(asked.text) if cursor else "",
        older_path=_path(asked.text, following) if following else "",
        command=_command(asked),
    )


def line(run: RunSummary) -> Line:
    """Return a run as a list shows it."""
    took = (run.ended_at - run.created_at).total_seconds() if run.ended_at else None
    return Line(
        run=run,
        badge=status.of_run(run),
        way=status.way_of(run),
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
    others = f"deployment:{asked.deployment} " if asked.deployment else ""
    tabs = [Tab("all", "", _path(others.strip()), asked.status is None)]
    for one, number in numbers.items():
        badge = status.of_status(one)
        path = _path(f"{others}status:{badge.text}")
        tabs.append(Tab(badge.text, number, path, asked.status is one, badge.icon, badge.tone))
    return tabs


def _path(text: str, cursor: str | None = None) -> str:
    query = urlencode({name: value for name, value in (("q", text), ("cursor", cursor)) if value})
    return f"/ui/runs?{query}" if query else "/ui/runs"


def _command(asked: Asked) -> str:
    words = ["bpa runs list"]
    if asked.status:
        words.append(f"--status {asked.status.replace('_', '-')}")
    if asked.deployment:
        words.append(f"--deployment {asked.deployment}")
    return " ".join(words)
