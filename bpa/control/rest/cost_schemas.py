"""What REST says of costs; the command line reads it too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import msgspec

from bpa.control.ledger import By
from bpa.control.rest.schemas import Document, Time
from bpa.domain.specs import Budgets


class Cost(Document, frozen=True):
    """The sum of some model calls. A replayed answer is counted where it was paid for: once."""

    key: str | None
    """The run's, agent's or deployment's id, the model's name, the day; null in the total, and for
    models that nodes of an earlier release asked."""
    epoch: int | None
    """Of the attempt; null otherwise."""
    calls: int
    """Calls that were answered."""
    input_tokens: int
    """Input that was neither read from a cache nor written to it."""
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cost_usd: str
    """An exact decimal. Tokens without a price are not in it."""
    unpriced_tokens: int
    """Of all the tokens, those whose model has no price: they cost an unknown amount."""
    unknown_calls: int
    """Calls whose answers were lost, beside ``calls``; each may have been billed."""
    unknown_tokens: int
    """What they used at most, in no other number here."""
    unknown_usd: str
    """What they cost at most, beside ``costUsd``, an exact decimal."""
    unknown_unpriced_tokens: int
    """Of ``unknownTokens``, those whose model has no price."""
    completed: int | None
    """Runs that completed in the time, each one invoice; a replay too, whose answers its original
    paid for. Null for single runs and attempts."""
    usd_per_completed: str | None
    """``costUsd`` by ``completed``, what runs that failed cost included, rounded to 12 digits after
    the point; null where none completed."""


class Costs(Document, frozen=True):
    """Sums of model calls."""

    by: By
    since: Time | None
    until: Time | None
    costs: list[Cost]
    total: Cost | None
    """Of all ``costs``; null where there are more than fit in this answer."""
    next_cursor: str | None


class Used(Document, frozen=True):
    """What runs used of one budget, each run for itself."""

    limit: str | None
    """What one run may use as the deployment stands now; null for no limit."""
    p50: str
    """What half of the runs stayed within; where they are over 20,000, of a sample of 10,000 or
    more, chosen by their ids."""
    p95: str
    """What 95 of 100 stayed within, of the same runs."""
    max: str
    """The most that one of all of them used."""
    exceeded: int
    """Runs that this budget ended: their next call might not have fit."""


class BudgetUse(Document, frozen=True):
    """How much of its budgets the runs of a deployment used. Amounts are exact decimals."""

    deployment_id: str
    runs: int
    """That ended in the time."""
    tokens: Used
    usd: Used
    out_of_calls: int
    """Runs that ended because they had made as many model calls as they may."""
    out_of_time: int
    """Runs that ended because their working time was over."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Build it from its row."""
        budgets = msgspec.convert(row["budgets"], Budgets) if row["budgets"] else None
        max_usd = budgets.max_usd if budgets else None
        return super().of(
            {
                **row,
                "tokens": _used(row, "tokens", str(budgets.max_tokens) if budgets else None),
                "usd": _used(row, "usd", None if max_usd is None else str(max_usd)),
            }
        )


def _used(row: Mapping[str, Any], name: str, limit: str | None) -> Used:
    p50, p95, most = map(str, row[name])
    return Used(limit=limit, p50=p50, p95=p95, max=most, exceeded=row[f"out_of_{name}"])


class BudgetsUsed(Document, frozen=True):
    """How budgets are used, deployment by deployment."""

    since: Time | None
    until: Time | None
    deployments: list[BudgetUse]
    """Those with runs that ended in the time, most runs first."""
