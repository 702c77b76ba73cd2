"""The steps of a run as its page lists them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from bpa.control.rest.run_schemas import StepView
from bpa.control.steps import StepState
from bpa.domain.journal import EffectCall, ModelCall, Usage
from bpa.ui.words import count
from bpa.words import span, usd


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the journal."""

    seq: int
    icon: str
    asked: str
    state: str
    tone: str
    took: str
    tokens: Sequence[tuple[str, str]]
    """Kinds of tokens and how many."""
    cost: str
    note: str


def step_of(step: StepView) -> Step:
    """Return a step as a line."""
    call, usage = step.call, _usage_of(step)
    is_model = step.kind == "model"
    took = (step.ended_at - step.started_at).total_seconds() if step.ended_at else None
    tones = {StepState.RECORDED: "good", StepState.IN_FLIGHT: "work"}
    return Step(
        seq=step.seq,
        icon="model" if is_model else "send",
        asked=_asked(call, step.kind),
        state=_state(step),
        tone=tones.get(step.state, "bad"),
        took=span(took) if took is not None else "",
        tokens=_tokens(usage) if usage else [],
        cost=_cost(usage, step),
        note=_note(step, call),
    )


def _asked(call: ModelCall | EffectCall | None, kind: str) -> str:
    if isinstance(call, ModelCall):
        return call.model
    if isinstance(call, EffectCall):
        return f"{call.method} {call.host}".strip()
    return kind


def _state(step: StepView) -> str:
    if step.inherited_from and step.answered:
        return "inherited"
    if step.replays:
        return "replayed" if step.replays == 1 else f"replayed {step.replays} times"
    return step.state.replace("_", " ")


def _usage_of(step: StepView) -> Usage | None:
    usage = msgspec.convert(step.usage, Usage) if step.usage else None
    return usage if usage and usage.total_tokens else None


def _tokens(usage: Usage) -> list[tuple[str, str]]:
    kinds = {
        "input": usage.input_tokens,
        "from cache": usage.cache_read_tokens,
        "to cache": usage.cache_write_tokens,
        "output": usage.output_tokens,
    }
    return [(name, count(number)) for name, number in kinds.items() if number or name != "to cache"]


def _cost(usage: Usage | None, step: StepView) -> str:
    if usage is None:
        return ""
    return "no price" if usage.unpriced_tokens else usd(step.cost_usd)


def _note(step: StepView, call: ModelCall | EffectCall | None) -> str:
    if step.state is StepState.UNKNOWN:
        return f"its answer was lost; billed for {count(step.reserved_tokens)} tokens at most"
    parts = []
    if isinstance(call, EffectCall) and call.status:
        parts.append(f"HTTP {call.status}")
    if call and call.tries > 1:
        parts.append(f"{call.tries} tries")
    if step.effect_key:
        parts.append(f"key {step.effect_key}")
    return ", ".join(parts)
