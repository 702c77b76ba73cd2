"""What the demonstration shows at its end, as values: one JSON document, or the tables of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from bpa.demo.documents import Expectation
from bpa.demo.seen import Seen, SeenInvoice

_ROWS_SHOWN = 6


class Money(msgspec.Struct, frozen=True, kw_only=True):
    """What the target received in one currency; sums are decimal strings."""

    invoices: int
    invoices_total: str
    credit_notes: int
    credit_notes_total: str
    """Without sign: some documents write credit with a minus, some without."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What the target API received."""

    received: int
    by_route: dict[str, int]
    by_vendor: dict[str, int]
    by_currency: dict[str, Money]
    rows: list[dict[str, Any]]
    """The first few bodies, each with its key."""


class DeadLetterRow(msgspec.Struct, frozen=True, kw_only=True):
    """One dead letter."""

    file: str
    reason: str
    description: str


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The whole result."""

    balanced: bool
    discrepancies: list[str]
    documents: int
    completed: int
    dead_lettered: dict[str, int]
    """Messages by reason."""
    unfinished: int
    took_s: float
    """From the first message sent to the last run's end."""
    latency_p50_ms: float | None
    """Of completed runs, from enqueued to the committed end."""
    latency_p95_ms: float | None
    tokens_in: int
    tokens_out: int
    cost_usd: str
    dead_letters: list[DeadLetterRow]
    target: Target


def summarize(
    expected: Sequence[Expectation], seen: Seen, found: Sequence[str], took_s: float
) -> Summary:
    """Return the result of a demonstration whose account left the discrepancies ``found``."""
    latencies = [
        run.latency_ms
        for run in seen.runs
        if run.status == "completed" and run.latency_ms is not None
    ]
    ended = Counter(run.status for run in seen.runs)
    return Summary(
        balanced=not found,
        discrepancies=list(found),
        documents=len(expected),
        completed=ended["completed"],
        dead_lettered=_most_first(Counter(letter.reason for letter in seen.dead_letters)),
        unfinished=max(0, len(expected) - sum(run.has_ended for run in seen.runs)),
        took_s=round(took_s, 3),
        latency_p50_ms=percentile(latencies, 0.5),
        latency_p95_ms=percentile(latencies, 0.95),
        tokens_in=sum(run.tokens_in for run in seen.runs),
        tokens_out=sum(run.tokens_out for run in seen.runs),
        cost_usd=f"{sum((run.cost_usd for run in seen.runs), Decimal(0)):f}",
        dead_letters=[
            DeadLetterRow(file=one.file, reason=one.reason, description=one.description)
            for one in seen.dead_letters
        ],
        target=_target(seen.received),
    )


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the value below which ``share`` of them lie, between neighbours; None of none."""
    if not values:
        return None
    ordered = sorted(values)
    place = (len(ordered) - 1) * share
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return round(low + (high - low) * (place - math.floor(place)), 3)


def _target(received: Sequence[SeenInvoice]) -> Target:
    bodies = [invoice.body for invoice in received]
    currencies = sorted({str(body.get("currency")) for body in bodies})
    return Target(
        received=len(bodies),
        by_route=_most_first(Counter(str(body.get("route")) for body in bodies)),
        by_vendor=_most_first(Counter(str(body.get("vendor")) for body in bodies)),
        by_currency={
            currency: _money([body for body in bodies if str(body.get("currency")) == currency])
            for currency in currencies
        },
        rows=[{"key": invoice.key, **invoice.body} for invoice in received[:_ROWS_SHOWN]],
    )


def _money(bodies: Sequence[Mapping[str, Any]]) -> Money:
    credit = [_amount(body) for body in bodies if body.get("kind") == "credit_note"]
    invoiced = [_amount(body) for body in bodies if body.get("kind") != "credit_note"]
    return Money(
        invoices=len(invoiced),
        invoices_total=f"{sum(invoiced, Decimal(0)):f}",
        credit_notes=len(credit),
        credit_notes_total=f"{sum((abs(amount) for amount in credit), Decimal(0)):f}",
    )


def _amount(body: Mapping[str, Any]) -> Decimal:
    try:
        return Decimal(str(body.get("total")))
    except InvalidOperation:
        return Decimal(0)


def _most_first(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
