"""How ``bpa runs show`` prints a run's steps: what each asked, used and cost, at which price."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import msgspec
from rich.console import Console

from bpa.cli.tables import ROOMY_CHARS, cut, table
from bpa.control.rest.run_schemas import Run, StepView
from bpa.control.steps import StepState
from bpa.domain.journal import EffectCall, ModelCall, UnitPrice, Usage
from bpa.words import span, usd_exactly


def print_steps(console: Console, run: Run) -> None:
    """Print the table of a run's steps; a narrow terminal gets the tokens in two sums."""
    kinds: tuple[str, ...] = ("input", "from cache", "to cache", "output")
    if console.width < ROOMY_CHARS:
        kinds = ("tokens in", "tokens out")
    figures = ("took", *kinds, "USD")
    rows = table("step", "asked", *figures, "answer", right=("step", *figures), cut="asked")
    for step in run.steps:
        took = step.ended_at - step.started_at if step.ended_at else None
        rows.add_row(
            str(step.seq),
            cut(_asked(step)),
            span(took.total_seconds()) if took is not None else "",
            *(_used(usage, kind) if (usage := usage_of(step)) else "" for kind in kinds),
            _cost(step),
            answer(step),
        )
    console.print()
    console.print(rows)


def prices(run: Run) -> Iterator[str]:
    """Say by which prices a run's model calls were charged, and which had none."""
    said: set[str] = set()
    for step in run.steps:
        usage = usage_of(step)
        if usage is None:
            continue
        if usage.price:
            line = f"{_asked(step)}: {_per_million(usage.price)}"
        elif usage.unpriced_tokens:
            line = (
                f"{_asked(step)}: no price, its tokens are not in the cost: add it to prices.toml"
            )
        else:
            continue
        if line not in said:
            said.add(line)
            yield line


def unknown(run: Run) -> str:
    """Say how many model calls have lost their answer, and what they were billed for at most."""
    lost = [step for step in run.steps if step.state is StepState.UNKNOWN]
    if not lost:
        return ""
    most = f"of {sum(step.reserved_tokens for step in lost):,} tokens at most"
    amounts = [step.call.reserved_usd for step in lost if isinstance(step.call, ModelCall)]
    priced = [Decimal(amount) for amount in amounts if amount is not None]
    if len(priced) == len(lost):
        most += f" ({usd_exactly(format(sum(priced), 'f'))} USD)"
    return f"{len(lost)}, {most}, not in the cost"


def answer(step: StepView) -> str:
    """Say what is known of a step, and that later executions took its answer instead of asking."""
    if step.inherited_from and step.answered:
        return f"inherited from {step.inherited_from}"
    if not step.replays:
        return step.state.replace("_", " ")
    return "replayed" if step.replays == 1 else f"replayed {step.replays} times"


def usage_of(step: StepView) -> Usage | None:
    """Return what a model step used; None while it is not known, and where it is nothing."""
    usage = msgspec.convert(step.usage, Usage) if step.usage else None
    return usage if usage and usage.total_tokens else None


def _asked(step: StepView) -> str:
    call = step.call
    if isinstance(call, ModelCall):
        return call.model
    if isinstance(call, EffectCall):
        return f"{call.method} {call.host}".strip()
    return step.kind  # recorded by an earlier release


def _used(usage: Usage, kind: str) -> str:
    figures: dict[str, int] = {
        "input": usage.input_tokens,
        "from cache": usage.cache_read_tokens,
        "to cache": usage.cache_write_tokens,
        "output": usage.output_tokens,
        "tokens in": usage.total_tokens - usage.output_tokens,
        "tokens out": usage.output_tokens,
    }
    return f"{figures[kind]:,}"


def _cost(step: StepView) -> str:
    usage = usage_of(step)
    if usage is None:
        return ""
    return "no price" if usage.unpriced_tokens else usd_exactly(step.cost_usd)


def _per_million(price: UnitPrice) -> str:
    kinds = {
        "input": price.input,
        "from cache": price.cache_read,
        "to cache": price.cache_write,
        "output": price.output,
    }
    each = ", ".join(f"{name} {amount}" for name, amount in kinds.items())
    return f"{each} USD per million tokens ({price.source}, {price.version})"
