"""What happens on a node, as metrics."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal

from bpa.connectors.breaker import STILL_IN_FLIGHT, is_failure
from bpa.connectors.sdk import OutboundTry
from bpa.domain.executions import BudgetKind
from bpa.domain.journal import StepKind, Usage
from bpa.telemetry.metrics import Metrics
from bpa.telemetry.rates import SuccessRate

_NOT_JUDGED = frozenset({"in_flight", "cut_short"})
"""Outcomes that say nothing of the target: they are no part of its success rate."""


class Measured:
    """Counts what brokers and sandboxes do; see the table in ``bpa.telemetry``.

    Args:
        metrics: Where it is counted.
        clock: Monotonic seconds.
    """

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._rates: dict[str, SuccessRate] = {}
        for kind in StepKind:  # at 0: an increase then shows the first one
            metrics.steps_replayed.labels(kind.value)
        for budget in BudgetKind:
            metrics.budget_exceeded.labels(budget.value)

    def model_asked(self, agent: str, model: str) -> None:
        """Show what will be counted of a model that was not asked before."""
        metrics = self._metrics
        for counter in (metrics.tokens_in, metrics.tokens_out, metrics.unpriced_tokens):
            counter.labels(agent, model)

    def model_answered(self, agent: str, model: str, usage: Usage) -> None:
        """Count the tokens and USD of a live model call."""
        read = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        self._metrics.tokens_in.labels(agent, model).inc(read)
        self._metrics.tokens_out.labels(agent, model).inc(usage.output_tokens)
        if usage.price is not None:  # what has no price did not cost 0 USD
            self._metrics.usd_cost.labels(agent, model).inc(float(Decimal(usage.cost_usd)))
        self._metrics.unpriced_tokens.labels(agent, model).inc(usage.unpriced_tokens)

    def step_replayed(self, kind: StepKind) -> None:
        """Count an answer that came from the journal."""
        self._metrics.steps_replayed.labels(kind.value).inc()

    def budget_exceeded(self, kind: BudgetKind) -> None:
        """Count a call that did not fit."""
        self._metrics.budget_exceeded.labels(kind.value).inc()

    def sandbox_started(self, took_s: float) -> None:
        """Take how long a run waited for its sandbox."""
        self._metrics.sandbox_start_s.observe(took_s)

    def target_tried(self, host: str, tried: OutboundTry) -> None:
        """Count a request to a target."""
        label = self._metrics.host(host)
        outcome = outcome_of(tried)
        code_class = "none" if tried.status is None else f"{tried.status // 100}xx"
        self._metrics.requests_out.labels(label, code_class, outcome).inc()
        self._metrics.request_out_s.labels(label).observe(tried.elapsed_ms / 1000)
        if outcome not in _NOT_JUDGED:
            rate = self._rates.setdefault(label, SuccessRate())
            rate.note(self._clock(), succeeded=outcome == "applied")

    def look(self) -> None:
        """Show the success rates as of now; a host that nothing goes to has none."""
        for label, rate in list(self._rates.items()):
            share = rate.value(self._clock())
            if share is None:
                del self._rates[label]
                self._metrics.success_rate.remove(label)
            else:
                self._metrics.success_rate.labels(label).set(share)


def outcome_of(tried: OutboundTry) -> str:
    """Return what a request came to, in one of five words."""
    if tried.cut_short:
        return "cut_short"
    if is_failure(tried.status):
        return "failed"
    assert tried.status is not None, "no answer is a failure"
    if 200 <= tried.status < 300:
        return "applied"
    return "in_flight" if tried.status == STILL_IN_FLIGHT else "refused"
