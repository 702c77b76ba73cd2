"""Costs: what model calls used, by whatever one asks for, and what runs used of their budgets."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from bpa.control.ledger import By, Chosen
from bpa.control.rest.cost_schemas import BudgetUse, Cost, Used
from bpa.domain.quantities import moment
from bpa.ui.words import count, percent
from bpa.words import usd

PERIOD = "1d"
BYS = (By.AGENT, By.DEPLOYMENT, By.MODEL, By.DAY)
_QUICK = ("1h", "1d")
_NAMES = {"1h": "last hour", "1d": "last day", "7d": "last 7 days", "30d": "last 30 days"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants to see; empty is all."""

    by: By = By.DEPLOYMENT
    since: str = PERIOD
    """So long ago, or a date; see `bpa.domain.quantities.moment`."""
    until: str = ""
    agent: str = ""
    deployment: str = ""
    model: str = ""

    @property
    def fields(self) -> Mapping[str, str]:
        """What is asked for, by the names that REST and command line have for it."""
        given = {
            "by": self.by.value,
            "since": self.since,
            "until": self.until,
            "agent": self.agent,
            "deployment": self.deployment,
            "model": self.model,
        }
        return {name: value for name, value in given.items() if value}

    @property
    def path(self) -> str:
        """The page's own address."""
        return f"/ui/costs?{urlencode(self.fields)}"

    @property
    def period(self) -> str:
        """The time in words."""
        if not self.until and self.since in _NAMES:
            return f"in the {_NAMES[self.since]}"
        since = f"since {self.since}" if self.since else "from the beginning"
        return f"{since} until {self.until}" if self.until else since

    def chosen(self, now: datetime) -> Chosen:
        """Return which calls and runs that is.

        Raises:
            InvalidRequest: A time is none.
        """
        return Chosen(
            since=moment(self.since, now) if self.since else None,
            until=moment(self.until, now) if self.until else None,
            agent=self.agent or None,
            deployment=self.deployment or None,
            model=self.model or None,
        )


@dataclass(frozen=True, slots=True)
class Known:
    """What there is to choose from."""

    agents: Sequence[Mapping[str, Any]]
    """Versions of agents, as their service lists them."""
    deployments: Sequence[str]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several ways to look."""

    text: str
    path: str
    is_here: bool


@dataclass(frozen=True, slots=True)
class Filter:
    """What narrows the sums."""

    name: str
    value: str
    options: Sequence[str]


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
    completed: str
    each: str
    """USD for each completed run; empty where none completed."""
    each_exactly: str
    unknown: str
    unpriced: str


@dataclass(frozen=True, slots=True)
class Budget:
    """One budget of a deployment's runs."""

    name: str
    limit: str
    p50: str
    p95: str
    max: str
    share: float | None
    """The most that a run used, of the limit; None where there is none."""
    exceeded: str
    """How many runs it ended; empty for none."""


@dataclass(frozen=True, slots=True)
class Budgets:
    """What a deployment's runs used of their budgets."""

    deployment: str
    runs: str
    lines: Sequence[Budget]
    others: str
    """Runs that other budgets ended."""
    exceeded_path: str


@dataclass(frozen=True, slots=True)
class CostPage:
    """The whole page."""

    asked: Asked
    lines: Sequence[Line]
    total: Line
    budgets: Sequence[Budgets]
    bys: Sequence[Choice]
    periods: Sequence[Choice]
    filters: Sequence[Filter]
    commands: Sequence[str]

    @property
    def every_s(self) -> int:
        """How often to ask again: sums over weeks take seconds where there are many runs."""
        return 15 if self.asked.since in _QUICK else 120

    @property
    def said(self) -> str:
        """What changed, in a sentence for who listens to the page."""
        return f"{self.total.usd} USD {self.asked.period}"


def cost_page(
    asked: Asked, known: Known, costs: Sequence[Cost], total: Cost, used: Sequence[BudgetUse]
) -> CostPage:
    """Return what the page shows.

    Args:
        asked: What somebody wants to see.
        known: What there is to choose from.
        costs: A sum for each key.
        total: Of all of them.
        used: What runs used of their budgets.
    """
    whole = Decimal(total.cost_usd)
    most = max((Decimal(one.cost_usd) for one in costs), default=Decimal(0))
    return CostPage(
        asked=asked,
        lines=[_line(one, most, whole) for one in costs],
        total=_line(total, most, whole),
        budgets=[_budgets(one) for one in used],
        bys=[Choice(f"by {one}", replace(asked, by=one).path, one is asked.by) for one in BYS],
        periods=[
            Choice(
                _NAMES[one],
                replace(asked, since=one, until="").path,
                not asked.until and one == asked.since,
            )
            for one in _NAMES
        ],
        filters=_filters(asked, known),
        commands=_commands(asked),
    )


def _filters(asked: Asked, known: Known) -> Sequence[Filter]:
    models = {str(row["spec"]["modelProfile"]["model"]) for row in known.agents}
    options: Iterable[tuple[str, str, Iterable[str]]] = (
        ("agent", asked.agent, {row["agent_id"] for row in known.agents}),
        ("deployment", asked.deployment, known.deployments),
        ("model", asked.model, models),
    )
    return [
        Filter(name, value, sorted({*names, *filter(None, [value])}))
        for name, value, names in options
    ]


def _commands(asked: Asked) -> Sequence[str]:
    def said(*names: str) -> str:
        return "".join(f" --{n} {shlex.quote(v)}" for n, v in asked.fields.items() if n in names)

    choice = ("since", "until", "agent", "deployment")
    return [f"bpa costs{said('by', *choice, 'model')}", f"bpa budgets{said(*choice)}"]


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
        completed=count(cost.completed or 0),
        each="" if cost.usd_per_completed is None else usd(cost.usd_per_completed),
        each_exactly=cost.usd_per_completed or "",
        unknown=f"{count(cost.unknown_calls)} calls, {usd(cost.unknown_usd)} USD at most"
        if cost.unknown_calls
        else "",
        unpriced=f"{count(cost.unpriced_tokens)} tokens" if cost.unpriced_tokens else "",
    )


def _budgets(use: BudgetUse) -> Budgets:
    others = ((use.out_of_calls, "calls"), (use.out_of_time, "time"))
    query = urlencode({"q": f"deployment:{use.deployment_id} reason:BudgetExceeded"})
    return Budgets(
        deployment=use.deployment_id,
        runs=count(use.runs),
        lines=[_budget("tokens", use.tokens), _budget("USD", use.usd)],
        others=", ".join(f"{count(many)} out of {what}" for many, what in others if many),
        exceeded_path=f"/ui/runs?{query}",
    )


def _budget(name: str, used: Used) -> Budget:
    def shown(amount: str) -> str:
        return usd(amount) if name == "USD" else count(int(amount))

    limit = Decimal(used.limit) if used.limit is not None else None
    return Budget(
        name=name,
        limit="no limit" if used.limit is None else shown(used.limit),
        p50=shown(used.p50),
        p95=shown(used.p95),
        max=shown(used.max),
        share=float(min(Decimal(used.max) / limit, Decimal(1))) if limit else None,
        exceeded=count(used.exceeded) if used.exceeded else "",
    )
