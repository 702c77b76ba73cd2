"""Costs: what model calls used, by whatever one asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from bpa.control.ledger import By
from bpa.control.rest.cost_schemas import Cost
from bpa.ui.words import count, percent, usd

PERIODS = {"1h": timedelta(hours=1), "1d": timedelta(days=1), "7d": timedelta(days=7),
           "30d": timedelta(days=30)}  # fmt: skip
BYS = (By.AGENT, By.DEPLOYMENT, By.MODEL, By.DAY)
_NAMES = {"1h": "last hour", "1d": "last day", "7d": "last 7 days", "30d": "last 30 days"}


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several ways to look."""

    text: str
    path: str
    is_here: bool


@dataclass(frozen=True, slots=True)
class Line:
    """One sum."""

    name: str
    usd: str
    exactly: str
    share: float
    """Of the dearest, for a bar."""
    part: str
    """Of all."""
    calls: str
    tokens_in: str
    cached: str
    tokens_out: str
    unknown: str
    unpriced: str


@dataclass(frozen=True, slots=True)
class CostPage:
    """The whole page."""

    lines: Sequence[Line]
    total: Line
    each: str
    """Per completed run."""
    completed: str
    bys: Sequence[Choice]
    periods: Sequence[Choice]
    by: By
    period: str
    command: str

    @property
    def said(self) -> str:
        """What changed, in a sentence for who listens to the page."""
        return f"{self.total.usd} USD in the {self.period}"


def cost_page(costs: Sequence[Cost], total: Cost, completed: int, by: By, period: str) -> CostPage:
    """Return what the page shows.

    Args:
        costs: A sum for each key.
        total: Of all of them.
        completed: Runs that completed in the period.
        by: What each is the sum of.
        period: A key of ``PERIODS``.
    """
    whole = Decimal(total.cost_usd)
    most = max((Decimal(one.cost_usd) for one in costs), default=Decimal(0))
    return CostPage(
        lines=[_line(one, most, whole) for one in costs],
        total=_line(total, most, whole),
        each=f"{usd(whole / completed)} USD" if completed else "none completed",
        completed=count(completed),
        bys=[Choice(f"by {one}", _path(one, period), one is by) for one in BYS],
        periods=[Choice(_NAMES[one], _path(by, one), one == period) for one in PERIODS],
        by=by,
        period=_NAMES[period],
        command=f"bpa costs --by {by} --since {period}",
    )


def completed_of(totals: Sequence[Mapping[str, Any]]) -> int:
    """Return how many runs have completed, by the counts of history."""
    return sum(row["runs"] for row in totals if row["status"] == "completed")


def since_of(period: str, now: datetime) -> datetime:
    """Return when a period began."""
    return now - PERIODS[period]


def _line(cost: Cost, most: Decimal, whole: Decimal) -> Line:
    amount = Decimal(cost.cost_usd)
    return Line(
        name=cost.key or "not known",
        usd=usd(amount),
        exactly=cost.cost_usd,
        share=float(amount / most) if most else 0.0,
        part=percent(float(amount), float(whole)),
        calls=count(cost.calls),
        tokens_in=count(cost.input_tokens + cost.cache_read_tokens + cost.cache_write_tokens),
        cached=count(cost.cache_read_tokens),
        tokens_out=count(cost.output_tokens),
        unknown=f"{count(cost.unknown_calls)} calls, {usd(cost.unknown_usd)} USD at most"
        if cost.unknown_calls
        else "",
        unpriced=f"{count(cost.unpriced_tokens)} tokens" if cost.unpriced_tokens else "",
    )


def _path(by: By, period: str) -> str:
    return "/ui/costs?" + urlencode({"by": by, "since": period})
