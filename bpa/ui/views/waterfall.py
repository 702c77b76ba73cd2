"""A run's timeline as bars on one scale, parts set below what they are a part of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from bpa.control.rest.run_schemas import StageView, depths_of
from bpa.ui.words import count, exact
from bpa.words import span, usd

WIDTH = 1000.0
_LEAST = 3.0
"""Of a bar, so that it can be seen."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One stage, or a part of one."""

    name: str
    depth: int
    at: str
    took: str
    x: float
    width: float
    tone: str
    who: str
    facts: Sequence[str]
    error: str
    detail: str
    title: str
    """Its exact times."""


@dataclass(frozen=True, slots=True)
class Waterfall:
    """All bars, and what their scale is."""

    bars: Sequence[Bar]
    ticks: Sequence[str]
    """At equal distances from begin to end."""


def waterfall(stages: Sequence[StageView], now: datetime) -> Waterfall:
    """Return the bars of a timeline; one that goes on reaches to now."""
    if not stages:
        return Waterfall([], [])
    begins = min(stage.started_at for stage in stages)
    ends = max(stage.ended_at or now for stage in stages)
    whole_s = max((ends - begins).total_seconds(), 1e-3)
    depths = depths_of(stages)
    bars = [_bar(stage, depths[stage.span_id], begins, whole_s, now) for stage in stages]
    return Waterfall(bars, [span(whole_s * n / 4) if n else "0" for n in range(5)])


def _bar(stage: StageView, depth: int, begins: datetime, whole_s: float, now: datetime) -> Bar:
    at_s = (stage.started_at - begins).total_seconds()
    took_s = max(0.0, ((stage.ended_at or now) - stage.started_at).total_seconds())
    width = max(_LEAST, WIDTH * took_s / whole_s)
    until = exact(stage.ended_at) if stage.ended_at else "now"
    return Bar(
        name=_name(stage),
        depth=depth,
        at=span(at_s) if at_s else "0",
        took=span(took_s) + ("" if stage.ended_at else " …"),
        x=round(min(WIDTH * at_s / whole_s, WIDTH - width), 1),
        width=round(width, 1),
        tone=_tone(stage),
        who=stage.node_id if stage.name == "think" else "",
        facts=_facts(stage),
        error=stage.error,
        detail=stage.detail,
        title=f"{exact(stage.started_at)} to {until}",
    )


def _tone(stage: StageView) -> str:
    if stage.error:
        return "bad"
    if stage.attributes.get("bpa.step.replayed"):
        return "calm"
    kind = stage.name.split(" ", 1)[0]
    return {
        "plan": "wait", "lease": "wait", "chat": "model", "execute_tool": "tool",
        "http.out": "tool", "complete": "good", "receive": "good", "replay": "good",
    }.get(kind, "work")  # fmt: skip


def _name(stage: StageView) -> str:
    if stage.name == "think" and stage.attempt > 1:
        return f"think, attempt {stage.attempt}"
    return stage.name


def _facts(stage: StageView) -> list[str]:
    told = stage.attributes
    facts = []
    if told.get("bpa.step.replayed"):
        facts.append("replayed, not asked again")
    if tokens := told.get("gen_ai.usage.input_tokens"):
        facts.append(f"{count(tokens)} in, {count(told['gen_ai.usage.output_tokens'])} out")
    if amount := told.get("bpa.cost.amount"):
        facts.append(f"{usd(amount)} USD")
    if code := told.get("http.response.status_code"):
        facts.append(f"HTTP {code}")
    if again := told.get("http.request.resend_count"):
        facts.append(f"{again} more {'try' if again == 1 else 'tries'}")
    return facts
