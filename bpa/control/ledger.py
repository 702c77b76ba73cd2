"""The ledger: what model calls used and cost. Pure.

Its lines are the model steps of all journals, each paid for once: an answer that was replayed is
the step that it was recorded in, and one that a replay of a dead letter inherited belongs to the
run that made it. A call whose answer was lost is unknown: it stands apart, with its reservation as
the most that it can have used. So the provider's own account lies between the sums and the sums
with the unknown calls, and equals them where nothing was lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

LINES_MAX = 1_000
"""Of one answer; there are fewer agents, deployments, models and days than that."""
_COUNTS = (
    "calls",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "unpriced_tokens",
    "unknown_calls",
    "unknown_tokens",
    "unknown_unpriced_tokens",
)
_AMOUNTS = ("cost_usd", "unknown_usd")
_EACH_DIGITS = 12


class By(StrEnum):
    """What each line is the sum of."""

    RUN = "run"
    ATTEMPT = "attempt"
    """One execution of a run, the one that made the calls: its epoch."""
    AGENT = "agent"
    DEPLOYMENT = "deployment"
    MODEL = "model"
    """By the name that it was asked for."""
    DAY = "day"
    """In UTC, on which the answer came."""


PAGED = frozenset({By.RUN, By.ATTEMPT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Which calls are summed up; None for all."""

    since: datetime | None = None
    until: datetime | None = None
    """Before this time."""
    agent: str | None = None
    deployment: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Sums:
    """What calls come to, a row for each key, and the runs that completed beside them."""

    rows: list[dict[str, Any]]
    completed: int
    """Of all that was chosen, also where a run completed by answers that were paid for before."""
    following: str | None
    """The cursor of the next page of runs or attempts."""

    @property
    def total(self) -> dict[str, Any]:
        """The sum of all rows."""
        return with_completed(total_of(self.rows), self.completed)


def with_completed(row: Mapping[str, Any], completed: int | None) -> dict[str, Any]:
    """Return a sum with the runs that completed, and what each of them cost."""
    each = each_of(row["cost_usd"], completed or 0)
    return {**row, "completed": completed, "usd_per_completed": each}


def each_of(cost_usd: str, completed: int) -> str | None:
    """Return USD for each of so many runs, rounded to 12 digits after the point; None for none."""
    if not completed:
        return None
    each = round(Decimal(cost_usd) / completed, _EACH_DIGITS).normalize()
    return format(each, "f")


def total_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sum of all rows, exactly."""
    counts = {name: sum(int(row[name]) for row in rows) for name in _COUNTS}
    usd = {name: sum((Decimal(row[name]) for row in rows), Decimal(0)) for name in _AMOUNTS}
    amounts = {name: format(amount, "f") for name, amount in usd.items()}
    return {"key": None, "epoch": None, **counts, **amounts}
