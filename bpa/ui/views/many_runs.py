"""Many runs at once: what there is to mark, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from bpa.control.rest.run_schemas import RunSummary
from bpa.domain.runs import RunId
from bpa.ui.views.runs import Line, line
from bpa.ui.words import count, segment


@dataclass(frozen=True, slots=True)
class Choice:
    """Runs to mark."""

    lines: Sequence[Line]
    query: str
    is_all: bool
    """Nothing else is found by the search."""
    back: str

    @property
    def said(self) -> str:
        """How many there are."""
        found = f"{count(len(self.lines))} run{'' if len(self.lines) == 1 else 's'}"
        return found if self.is_all else f"the newest {found}; there are more"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one run."""

    run_id: RunId
    said: str
    is_done: bool

    @property
    def path(self) -> str:
        """Where its page is."""
        return f"/ui/runs/{segment(self.run_id)}"


@dataclass(frozen=True, slots=True)
class Acted:
    """What became of all that were marked."""

    what: str
    results: Sequence[Result]
    marked: int

    @property
    def said(self) -> str:
        """Sum it up."""
        done = sum(result.is_done for result in self.results)
        verb = "cancelled" if self.what == "cancel" else "retried"
        return f"{count(done)} of {count(self.marked)} {verb}"


def choice(rows: Sequence[RunSummary], query: str, *, is_all: bool) -> Choice:
    """Return what the page shows."""
    return Choice([line(run) for run in rows], query, is_all, "/ui/runs?" + urlencode({"q": query}))
