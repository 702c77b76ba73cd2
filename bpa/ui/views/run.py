"""One run: its state in plain words, its way, its steps and what they cost, what can be done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from bpa.control.rest.run_schemas import Run, StepView
from bpa.control.steps import StepState
from bpa.domain.journal import EffectCall, ModelCall, Usage
from bpa.domain.runs import TERMINAL, RunStatus
from bpa.domain.specs import DeploymentSpec
from bpa.ui.views import status, waterfall
from bpa.ui.views.runs import why
from bpa.ui.words import ago, count, segment, span, usd


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


@dataclass(frozen=True, slots=True)
class Budget:
    """How much of a budget is used."""

    name: str
    used: str
    limit: str
    share: float
    """0 to 1."""

    @property
    def tone(self) -> str:
        """Whether it gets tight."""
        return "bad" if self.share >= 1 else "wait" if self.share >= 0.8 else "work"


@dataclass(frozen=True, slots=True)
class Link:
    """A fact that leads somewhere, or none."""

    name: str
    text: str
    path: str = ""
    copy: bool = False
    title: str = ""


@dataclass(frozen=True, slots=True)
class RunPage:
    """The whole page."""

    run: Run
    badge: status.Badge
    headline: str
    """Its state in plain words."""
    more: str
    way: Sequence[status.Bead]
    waterfall: waterfall.Waterfall
    steps: Sequence[Step]
    budgets: Sequence[Budget]
    about: Sequence[Link]
    message: Sequence[Link]
    refusals: Sequence[tuple[str, str]]
    """Nodes, and why the run is not there."""
    commands: Sequence[str]
    letter_path: str
    """Its dead letter, if it has one."""
    may_cancel: bool
    may_retry: bool
    is_over: bool

    @property
    def said(self) -> str:
        """What changed, in a sentence for who listens to the page."""
        return self.headline


def run_page(run: Run, spec: DeploymentSpec | None, now: datetime) -> RunPage:
    """Return what the page shows.

    Args:
        run: All that is known of it.
        spec: Its deployment's, for the budgets; None if it is no more.
        now: The present time.
    """
    is_over = run.status in TERMINAL
    headline, more = _headline(run, now)
    return RunPage(
        run=run,
        badge=status.of_run(run),
        headline=headline,
        more=more,
        way=status.way_by(run.timeline, run),
        waterfall=waterfall.waterfall(run.timeline, now),
        steps=[_step(step) for step in run.steps],
        budgets=list(_budgets(run, spec)) if spec else [],
        about=list(_about(run)),
        message=list(_message(run)),
        refusals=[(node, str(reason)) for node, reason in (run.waiting_nodes or {}).items()],
        commands=list(_commands(run)),
        letter_path=_letter_path(run),
        may_cancel=not is_over and not run.cancelling,
        may_retry=run.status == RunStatus.QUEUED
        or (run.status == RunStatus.DEAD_LETTERED and run.replayed_as is None),
        is_over=is_over,
    )


def _headline(run: Run, now: datetime) -> tuple[str, str]:
    """Say how a run is, and what follows from that."""
    if run.cancelling and run.cancel_asked_at:
        return "Being cancelled", (
            f"Asked by {run.cancel_asked_by} {ago(run.cancel_asked_at, now)}; its node ends it "
            "with its next heartbeat, and control without it if that takes too long."
        )
    if run.parked:
        return f"Parked: {run.parked.host} does not answer", (
            f"Since {ago(run.parked.since, now)} ({run.parked.error}). It costs the run nothing, "
            "and it goes on by itself from its journal when the target answers again."
        )
    if run.status == RunStatus.COMPLETED:
        outcome = run.outcome or {}
        said = ", ".join(
            f"{name} {outcome[name]}" for name in ("vendor", "route") if name in outcome
        )
        return f"Completed{f': {said}' if said else ''}", (
            f"From the broker to the end in {span(_whole_s(run))}, {span(run.worked_s)} at work."
        )
    if run.status == RunStatus.DEAD_LETTERED:
        return f"Dead-lettered: {run.reason}", run.detail or ""
    if run.status == RunStatus.RUNNING:
        return (
            f"At work on {run.node_id}",
            f"Execution {run.executions}, lease epoch {run.lease_epoch}.",
        )
    if run.status == RunStatus.OFFERED:
        return f"Offered to {run.node_id}", "The node has not acknowledged the lease yet."
    return f"Waits: {why(run) or 'its turn to be placed'}", (
        f"For {span((now - run.created_at).total_seconds())} so far."
    )


def _whole_s(run: Run) -> float:
    ended = run.ended_at or run.created_at
    return max(0.0, (ended - min(run.enqueued_at, ended)).total_seconds())


def _step(step: StepView) -> Step:
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


def _budgets(run: Run, spec: DeploymentSpec) -> Iterator[Budget]:
    budgets = spec.budgets
    calls = sum(step.kind == "model" and not step.inherited_from for step in run.steps)
    yield _budget("tokens", run.tokens_used, budgets.max_tokens, count)
    yield _budget("time at work", run.worked_s, budgets.max_duration_s, span)
    yield _budget("calls", calls, budgets.max_calls, count)
    if budgets.max_usd:
        yield _budget("USD", float(run.cost_usd), budgets.max_usd, lambda n: usd(str(n)))


def _budget(name: str, used: float, limit: float, shown: Any) -> Budget:
    return Budget(name, shown(used), shown(limit), min(1.0, used / limit) if limit else 1.0)


def _about(run: Run) -> Iterator[Link]:
    yield Link("deployment", run.deployment_id, f"/ui/deployments/{segment(run.deployment_id)}")
    yield Link("agent", f"{run.agent_id} {run.version}")
    if run.node_id:
        yield Link("node", run.node_id, f"/ui/fleet/{segment(run.node_id)}")
    if run.executions:
        yield Link("executions", _executions(run))
    if run.steps:
        yield Link("tokens", count(run.tokens_used))
        yield Link("cost", f"{usd(run.cost_usd)} USD", title=f"exactly {run.cost_usd} USD")
    if run.unknown_calls:
        yield Link("unknown calls", f"{run.unknown_calls}, not in the cost")
    if run.replay_of:
        yield Link("replay of", run.replay_of, f"/ui/runs/{segment(run.replay_of)}")
    if run.replayed_as:
        yield Link("replayed as", run.replayed_as, f"/ui/runs/{segment(run.replayed_as)}")
    yield Link("trace", run.trace_id, copy=True)
    yield Link("effect key", run.effect_key, copy=True)


def _executions(run: Run) -> str:
    counted = {
        "failed by the agent": run.agent_failures,
        "crashed": run.crashes,
        "lost by the infrastructure": run.infra_failures,
    }
    wrong = ", ".join(f"{number} {what}" for what, number in counted.items() if number)
    return f"{run.executions} ({wrong})" if wrong else str(run.executions)


def _message(run: Run) -> Iterator[Link]:
    source = run.input_ref
    yield Link("message id", str(source.get("message_id") or "none"), copy=True)
    yield Link("queue", f"{source.get('queue')}, number {source.get('sequence_number')}")
    yield Link("dialect", str(source.get("dialect") or "none was recognised"))
    yield Link("size", f"{count(source.get('bytes', 0))} bytes")
    if excerpt := source.get("excerpt"):
        yield Link("excerpt", str(excerpt))


def _commands(run: Run) -> Iterator[str]:
    yield f"bpa runs show {run.run_id}"
    if run.status not in TERMINAL:
        yield f"bpa runs cancel {run.run_id} --detail '…'"
    if run.status in (RunStatus.QUEUED, RunStatus.DEAD_LETTERED):
        yield f"bpa runs retry {run.run_id}"
    if run.status == RunStatus.DEAD_LETTERED and run.replayed_as is None:
        yield f"bpa dlq show {_letter_id(run)}"


def _letter_id(run: Run) -> str:
    queue = str(run.input_ref.get("queue", "")).replace("/", "~")
    return f"{queue}:{run.input_ref.get('sequence_number')}"


def _letter_path(run: Run) -> str:
    if run.status != RunStatus.DEAD_LETTERED or run.replayed_as is not None:
        return ""
    return f"/ui/dead-letters/{segment(_letter_id(run))}"
