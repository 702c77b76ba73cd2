"""A run's timeline as a waterfall: what happened, when, for how long, and beside it a bar."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.console import Console
from rich.text import Text

from bpa.cli.tables import cut, table
from bpa.control.rest.run_schemas import Run, StageView, depths_of
from bpa.words import span

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_BAR_CHARS_LEAST = 12
_BAR_CHARS_MOST = 60
_OTHER_CHARS = 60
"""Of a line beside its bar: stage, start and duration."""


def print_waterfall(console: Console, run: Run) -> None:
    """Print what happened to the run, parts indented below what they are a part of."""
    stages = run.timeline
    if not stages:
        return
    now = datetime.now(UTC)
    begins = min(stage.started_at for stage in stages)
    ends = max(stage.ended_at or now for stage in stages)
    width = min(max(console.width - _OTHER_CHARS, _BAR_CHARS_LEAST), _BAR_CHARS_MOST)
    scale = width / max((ends - begins).total_seconds(), 1e-6)
    rows = table("stage", "at", "took", "", right=("at", "took"), cut="stage")
    rows.columns[0].min_width = 24
    depths = depths_of(stages)
    for stage in stages:
        at_s = (stage.started_at - begins).total_seconds()
        took_s = max(0.0, ((stage.ended_at or now) - stage.started_at).total_seconds())
        rows.add_row(
            _name(stage, depths[stage.span_id]),
            span(at_s),
            span(took_s) if stage.ended_at else f"{span(took_s)} …",
            Text(bar(at_s * scale, took_s * scale, width), style="red" if stage.error else "cyan"),
        )
    console.print()
    console.print(rows)


def bar(at: float, length: float, width: int) -> str:
    """Return a bar in a field of ``width`` characters, drawn to an eighth of one.

    Args:
        at: Where it begins, in characters.
        length: Of the bar, in characters; it is at least an eighth of one long.
        width: Of the field.
    """
    begin = min(int(at), width - 1)
    eighths = max(1, round((at - begin + length) * 8))
    eighths = min(eighths, (width - begin) * 8)
    full, rest = divmod(eighths, 8)
    return " " * begin + _EIGHTHS[8] * full + (_EIGHTHS[rest] if rest else "")


def _name(stage: StageView, depth: int) -> Text:
    """Return a stage with its place in the tree, who did it, and what is wrong with it."""
    words = [stage.name]
    if stage.name == "think":
        again = f", attempt {stage.attempt}" if stage.attempt > 1 else ""
        words = [f"think on {stage.node_id}{again}"]
    if stage.attributes.get("bpa.step.replayed"):
        words.append("(replayed)")
    if status := stage.attributes.get("http.response.status_code"):
        words.append(str(status))
    name = cut("  " * depth + " ".join(words))
    if stage.error:
        name.append(f"  {stage.error}", style="red")
    return name
