"""What happens on a node, as metrics."""

from __future__ import annotations

from decimal import Decimal

from bpa.domain import StepKind, Usage
from bpa.node.budget import BudgetKind
from bpa.telemetry.metrics import Metrics


class Measured:
    """Counts what brokers do; see the table in ``bpa.telemetry``."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def model_answered(self, agent: str, model: str, usage: Usage) -> None:
        """Count the tokens and USD of a live model call."""
        read = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        self._metrics.tokens_in.labels(agent, model).inc(read)
        self._metrics.tokens_out.labels(agent, model).inc(usage.output_tokens)
        self._metrics.usd_cost.labels(agent, model).inc(float(Decimal(usage.cost_usd)))
        self._metrics.unpriced_tokens.labels(agent, model).inc(usage.unpriced_tokens)

    def step_replayed(self, kind: StepKind) -> None:
        """Count an answer that came from the journal."""
        self._metrics.steps_replayed.labels(kind.value).inc()

    def budget_exceeded(self, kind: BudgetKind) -> None:
        """Count a call that did not fit."""
        self._metrics.budget_exceeded.labels(kind.value).inc()
