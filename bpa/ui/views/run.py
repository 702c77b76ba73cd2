"""One run: its state in plain words, its way, its steps and what they cost, what can be done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bpa.control.disclosure import Show
from bpa.control.rest.run_schemas import Run
from bpa.domain.runs import TERMINAL, RunStatus
from bpa.domain.specs import DeploymentSpec
from bpa.ui.views import run_facts, status, waterfall
from bpa.ui.views.run_facts import Link, Outside, Replay
from bpa.ui.views.run_steps import Step, step_of
from bpa.ui.views.runs import why
from bpa.ui.words import ago, count
from bpa.words import span, usd


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
    properties: Sequence[tuple[str, str]]
    """The message's, as far as they are kept."""
    replays: Sequence[Replay]
    refusals: Sequence[tuple[str, str]]
    """Nodes, and why the run is not there."""
    commands: Sequence[str]
    letters: Sequence[tuple[str, str]]
    """Its dead letters, and the page of each."""
    logs_address: str
    """Where others keep the processes' log lines; empty where no setting says."""
    contents: Show
    """How much of what it works on is shown to who looks."""
    may_cancel: bool
    may_retry: bool
    is_over: bool

    @property
    def said(self) -> str:
        """What changed, in a sentence for who listens to the page."""
        return self.headline


def run_page(
    run: Run, spec: DeploymentSpec | None, now: datetime, *, outside: Outside, contents: Show
) -> RunPage:
    """Return what the page shows.

    Args:
        run: All that is known of it.
        spec: Its deployment's, as it stood for the run, for the budgets; None if it is not known.
        now: The present time.
        outside: Where others keep traces and log lines.
        contents: How much of what it works on is shown to who looks.
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
        steps=[step_of(step) for step in run.steps],
        budgets=list(_budgets(run, spec)) if spec else [],
        about=list(run_facts.about(run, outside)),
        message=list(run_facts.message(run)),
        properties=run_facts.properties(run.message),
        replays=run_facts.replays(run),
        refusals=[(node, str(reason)) for node, reason in (run.waiting_nodes or {}).items()],
        commands=list(run_facts.commands(run)),
        letters=run_facts.letters(run),
        logs_address=run_facts.address(outside.logs, run),
        contents=contents,
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
