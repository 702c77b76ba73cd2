"""How tables are printed: fitted to a terminal, whole where something reads them.

Colours follow ``NO_COLOR`` and are left out where standard output is no terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from bpa.words import span

_UNBOUNDED_CHARS = 400
_STYLES = {"completed": "green", "dead_lettered": "red", "running": "cyan", "offered": "cyan"}

ROOMY_CHARS = 100
"""A terminal of so many columns shows more than what there is and why."""

Justify = Literal["left", "right"]


def output() -> Console:
    """Return standard output; nothing is cut where it is no terminal."""
    if sys.stdout.isatty():
        return Console(file=sys.stdout, highlight=False, markup=False)
    return _Plain(file=sys.stdout, highlight=False, markup=False, width=_UNBOUNDED_CHARS)


class _Plain(Console):
    """A console for files and pipes: without the blanks that fill up a cell."""

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        rendered = super()._render_buffer(buffer)
        return "\n".join(line.rstrip(" ") for line in rendered.split("\n"))


def messages() -> Console:
    """Return standard error, for what is not data."""
    return Console(file=sys.stderr, highlight=False, markup=False)


def table(*columns: str, right: Sequence[str] = (), cut: str = "") -> Table:
    """Return an empty table: ``right`` columns hold numbers, ``cut`` gives way when it is tight."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        justify: Justify = "right" if column in right else "left"
        made.add_column(column, justify=justify, no_wrap=column != cut)
    return made


def whole(made: Table, *columns: str) -> Table:
    """Return the filled table with columns that are copied from it: the others are cut first."""
    for column in made.columns:
        if column.header in columns:
            column.min_width = max(cell_len(str(cell)) for cell in column.cells)
    return made


def cut(text: str) -> Text:
    """Return a cell of the column that gives way: cut at its end, never wrapped."""
    return Text(text, no_wrap=True, overflow="ellipsis")


def facts(rows: Sequence[tuple[str, object]]) -> Table:
    """Return names with their values, without those that are empty."""
    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        if value not in (None, ""):
            made.add_row(name, value if isinstance(value, Text) else str(value))
    return made


def status(value: str) -> Text:
    """Return a run's status in words that do without their colour."""
    return Text(value.replace("_", "-"), style=_STYLES.get(value, ""))


def ago(moment: datetime, now: datetime | None = None) -> str:
    """Return how long ago something was, in one unit."""
    return span(((now or datetime.now(UTC)) - moment).total_seconds())
