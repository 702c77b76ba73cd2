"""How the demonstration is shown: progress while it runs, tables when it has."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as Bar

from bpa.cli.demo_play import Progress
from bpa.cli.tables import cut, facts, messages, table
from bpa.demo.summary import Summary
from bpa.words import usd_exactly

_LINE_EVERY_S = 2.0


@contextmanager
def progress_shown() -> Iterator[Callable[[Progress], None]]:
    """Show progress on standard error: a live line on a terminal, else a line now and then."""
    console = messages()
    if not console.is_terminal:
        yield _Lines(console).show
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("sending", total=None)
        yield lambda now: bar.update(
            task, description=_line(now), completed=now.ended, total=now.documents
        )


class _Lines:
    """Progress for a log: what has changed, every other second at most."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ""
        self._at_s = 0.0

    def show(self, now: Progress) -> None:
        line, at_s = _line(now), time.monotonic()
        is_last = now.ended >= now.documents
        if line != self._last and (is_last or at_s - self._at_s >= _LINE_EVERY_S):
            self._console.print(line, soft_wrap=True)
            self._last, self._at_s = line, at_s


def _line(now: Progress) -> str:
    running = now.statuses.get("running", 0) + now.statuses.get("offered", 0)
    parts = [
        f"sent {now.sent}",
        f"running {running}",
        f"completed {now.statuses.get('completed', 0)}",
        f"dead-lettered {now.statuses.get('dead_lettered', 0)}",
    ]
    if now.waiting_for and not running:
        parts.append(f"waiting: {now.waiting_for}")
    return ", ".join(parts)


def print_summary(console: Console, summary: Summary) -> None:
    """Print what became of the messages, and what the target received."""
    console.print()
    _print_outcomes(console, summary)
    console.print()
    _print_target(console, summary)
    console.print()
    if summary.balanced:
        console.print(
            f"The account balances: {summary.documents} messages, each completed or dead-lettered "
            "as expected, each completed one once at the target.",
            style="green",
            soft_wrap=True,
        )
        return
    count = len(summary.discrepancies)
    console.print(f"The account does not balance, {count} discrepancies:", style="bold red")
    for line in summary.discrepancies:
        console.print(f"  {line}", soft_wrap=True)


def _print_outcomes(console: Console, summary: Summary) -> None:
    rows = table("outcome", "messages", "why", right=("messages",), cut="why")
    rows.add_row("completed", str(summary.completed), "")
    why = {letter.reason: f"{letter.file}: {letter.description}" for letter in summary.dead_letters}
    for reason, count in summary.dead_lettered.items():
        rows.add_row(f"dead-lettered {reason}", str(count), cut(why.get(reason, "")))
    if summary.unfinished:
        rows.add_row("unfinished", str(summary.unfinished), "")
    console.print(rows)
    console.print()
    latency = f"{_ms(summary.latency_p50_ms)} / {_ms(summary.latency_p95_ms)}"
    figures = facts(
        [
            ("duration", f"{summary.took_s:.1f} s from the first message to the last end"),
            ("latency p50 / p95", f"{latency} of the completed, all sent at once"),
            ("tokens in / out", f"{summary.tokens_in:,} / {summary.tokens_out:,}"),
            ("cost", f"{usd_exactly(summary.cost_usd)} USD"),
        ]
    )
    console.print(figures)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f} ms"


def _print_target(console: Console, summary: Summary) -> None:
    target = summary.target
    console.print(f"The target API received {target.received} invoices", style="bold")
    money = table(
        "currency", "invoices", "total", "credit notes", "credited",
        right=("invoices", "total", "credit notes", "credited"),
    )  # fmt: skip
    for currency, sums in target.by_currency.items():
        money.add_row(
            currency,
            str(sums.invoices),
            f"{Decimal(sums.invoices_total):,}",
            str(sums.credit_notes),
            f"{Decimal(sums.credit_notes_total):,}",
        )
    console.print(money)
    shares = facts(
        [
            ("by route", _counts(target.by_route)),
            ("by vendor", _counts(target.by_vendor, most=4)),
        ]
    )
    console.print()
    console.print(shares)
    if not target.rows:
        return
    console.print()
    rows = table("invoice", "vendor", "route", "total", "", "date", right=("total",), cut="vendor")
    for body in target.rows:
        names = ("route", "total", "currency", "issued_on")
        rows.add_row(
            str(body.get("invoice_id")),
            cut(str(body.get("vendor"))),
            *(str(body.get(name)) for name in names),
        )
    console.print(rows)


def _counts(counts: Mapping[str, int], most: int | None = None) -> str:
    shown = [f"{name} {count}" for name, count in list(counts.items())[:most]]
    if len(shown) < len(counts):
        shown.append(f"{len(counts) - len(shown)} more")
    return ", ".join(shown)
