"""The last hour as charts, from what is counted by the minute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from bpa.control.rest.queue_schemas import Queue
from bpa.control.rest.trend_schemas import lag_of
from bpa.control.trends import Trend, backlog_of, minutes_of
from bpa.ui.views import charts
from bpa.ui.words import percent, short
from bpa.words import span, usd

_TOPS_MS = [*(1e3 * s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30)),
            *(6e4 * m for m in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600))]  # fmt: skip
"""What the upper edge of latencies stands for: round in the unit that it is told in."""


def last_hour(
    trend: Trend, queues: Sequence[Queue], alive: Sequence[Mapping[str, Any]], now: datetime
) -> list[charts.Chart]:
    """Return the charts: queue lag, throughput, latency, cost.

    Args:
        trend: What arrived and ended, minute by minute.
        queues: What waits in each of them.
        alive: Living runs, counted by state.
        now: The end of the hour.
    """
    minutes = minutes_of(trend, now)
    ended = {row["at"]: row for row in trend.ended}
    return [
        _backlog(trend, queues, alive, minutes),
        _throughput(trend, minutes, ended),
        _latency(trend, minutes, ended),
        _cost(trend, minutes, ended),
    ]


def _backlog(
    trend: Trend,
    queues: Sequence[Queue],
    alive: Sequence[Mapping[str, Any]],
    minutes: Sequence[datetime],
) -> charts.Chart:
    lag = lag_of(queues, alive)
    levels = [float(level) for level in backlog_of(trend, minutes, lag)]
    top = charts.ceiling(max(levels))
    oldest = max((queue.oldest_age_s or 0 for queue in queues if queue.active), default=0)
    note = f"oldest waits {span(oldest)}" if oldest else "nothing waits"
    estimated = any(queue.estimated or queue.active_at_least for queue in queues)
    return charts.Chart(
        title="Queue lag",
        value=f"{'≥ ' if estimated else ''}{short(lag.messages)}",
        note=note,
        summary=f"Messages not ended yet over the last hour: now {lag.messages}, "
        f"at most {max(levels):.0f}",
        top=short(top),
        lines=[charts.line("messages", "work", levels, top, filled=True)],
        columns=("minute", "messages"),
        rows=[(f"{at:%H:%M}", f"{n:.0f}") for at, n in zip(minutes, levels, strict=True)],
    )


def _throughput(
    trend: Trend, minutes: Sequence[datetime], ended: Mapping[datetime, Mapping[str, Any]]
) -> charts.Chart:
    good = [float(ended[at]["completed"]) if at in ended else 0.0 for at in minutes]
    bad = [float(ended[at]["dead_lettered"]) if at in ended else 0.0 for at in minutes]
    top = charts.ceiling(max(a + b for a, b in zip(good, bad, strict=True)))
    done, dead = trend.overall["completed"], trend.overall["dead_lettered"]
    return charts.Chart(
        title="Throughput",
        value=f"{short(done + dead)} /h",
        note=f"{percent(done, done + dead)} completed" if done + dead else "nothing ended",
        summary=f"Runs that ended in the last hour: {done} completed, {dead} dead-lettered",
        top=f"{short(top)}/min",
        boxes=charts.stacked([("good", good), ("bad", bad)], top),
        columns=("minute", "completed", "dead-lettered"),
        rows=[
            (f"{at:%H:%M}", f"{a:.0f}", f"{b:.0f}")
            for at, a, b in zip(minutes, good, bad, strict=True)
        ],
    )


def _latency(
    trend: Trend, minutes: Sequence[datetime], ended: Mapping[datetime, Mapping[str, Any]]
) -> charts.Chart:
    names = ("p50_ms", "p95_ms", "p99_ms")
    series = {name: [ended[at][name] if at in ended else None for at in minutes] for name in names}
    most = max((n for n in series["p99_ms"] if n is not None), default=0.0)
    top = next((top for top in _TOPS_MS if top >= most), charts.ceiling(most))
    of = {name: trend.overall[name] for name in names}
    said = {name: span(n / 1000) if n is not None else "\N{EN DASH}" for name, n in of.items()}
    return charts.Chart(
        title="Latency, p95",
        value=said["p95_ms"],
        note=f"p50 {said['p50_ms']} · p99 {said['p99_ms']}",
        summary="From the broker to the end, last hour: "
        f"p50 {said['p50_ms']}, p95 {said['p95_ms']}, p99 {said['p99_ms']}",
        top=span(top / 1000),
        lines=[
            charts.line("p99", "calm", series["p99_ms"], top),
            charts.line("p95", "work", series["p95_ms"], top),
            charts.line("p50", "good", series["p50_ms"], top),
        ],
        columns=("minute", "p50", "p95", "p99"),
        rows=[
            (f"{at:%H:%M}", *(span(ended[at][name] / 1000) for name in names))
            for at in minutes
            if at in ended
        ],
    )


def _cost(
    trend: Trend, minutes: Sequence[datetime], ended: Mapping[datetime, Mapping[str, Any]]
) -> charts.Chart:
    amounts = [float(ended[at]["cost_usd"]) if at in ended else 0.0 for at in minutes]
    top = charts.ceiling(max(amounts))
    total, done = Decimal(trend.overall["cost_usd"]), trend.overall["completed"]
    each = f"{usd(total / done)} USD per completed run" if done else "no run completed"
    return charts.Chart(
        title="Cost",
        value=f"{usd(total)} USD",
        note=each,
        summary=f"Model cost of the runs that ended in the last hour: {usd(total)} USD, {each}",
        top=f"{top:g} USD/min",
        boxes=charts.stacked([("cost", amounts)], top),
        columns=("minute", "USD"),
        rows=[(f"{at:%H:%M}", usd(str(n))) for at, n in zip(minutes, amounts, strict=True) if n],
    )
