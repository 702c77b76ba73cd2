"""Many runs at once: what there is to mark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from bpa.control.rest.run_schemas import RunSummary
from bpa.ui.views.runs import Line, line
from bpa.ui.words import count


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


def choice(rows: Sequence[RunSummary], query: str, *, is_all: bool) -> Choice:
    """Return what the page shows."""
    return Choice([line(run) for run in rows], query, is_all, "/ui/runs?" + urlencode({"q": query}))
