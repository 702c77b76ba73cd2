"""What needs somebody, for REST, the overview and the command line alike. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from bpa.control.rest.breaker_schemas import Breaker
from bpa.control.rest.node_schemas import Node
from bpa.control.rest.queue_schemas import Queue
from bpa.control.rest.trend_schemas import Concern, Kind
from bpa.words import span

SILENT_AFTER_S = 10.0
"""Without a heartbeat for so long, a node is silent; two of the default beats."""
_OLD_S = 60.0
"""A run that waits longer than this wants a look."""


def concerns_of(
    queues: Sequence[Queue],
    breakers: Sequence[Breaker],
    nodes: Sequence[Node],
    alive: Sequence[Mapping[str, Any]],
    now: datetime,
) -> list[Concern]:
    """Return what needs somebody, the most urgent first.

    Args:
        queues: Those that are fed from, with their last readings.
        breakers: Of all targets that have failed.
        nodes: All of them.
        alive: Living runs, counted by status and what they wait for.
        now: The time that waits are told by.
    """
    return [
        *_dead(queues), *_parked(breakers, now), *_silent(nodes), *_unread(queues),
        *_waiting(alive, now),
    ]  # fmt: skip


def _dead(queues: Sequence[Queue]) -> Iterator[Concern]:
    for queue in queues:
        if queue.dead_letters:
            yield Concern(
                kind=Kind.DEAD_LETTERS,
                subject=queue.queue,
                title=f"{_counted(queue.dead_letters, 'dead letter')} in {queue.queue}",
                detail="Messages that could not become a result, each with its reason. Look "
                "inside, mend what is wrong, replay.",
                command="bpa dlq list",
            )


def _parked(breakers: Sequence[Breaker], now: datetime) -> Iterator[Concern]:
    for breaker in breakers:
        if breaker.state == "closed":
            continue
        parked = f"{_counted(breaker.parked_runs, 'run')} parked"
        waits = f"{parked}; they go on by themselves when it answers again"
        left_s = (breaker.probe_at - now).total_seconds() if breaker.probe_at else 0.0
        probe = f"next probe in {span(round(left_s))}" if left_s > 0 else "the next run probes it"
        yield Concern(
            kind=Kind.TARGET_AWAY,
            subject=breaker.host,
            title=f"{breaker.host} does not answer",
            detail=f"{waits if breaker.parked_runs else 'No run is parked'}; {probe}. "
            f"Last seen: {breaker.last_error}",
            command="bpa breakers",
        )


def _silent(nodes: Sequence[Node]) -> Iterator[Concern]:
    for node in nodes:
        if node.heartbeat_age_s > SILENT_AFTER_S:
            yield Concern(
                kind=Kind.NODE_SILENT,
                subject=node.node_id,
                title=f"{node.node_id} is silent",
                detail=f"Not heard of for {span(node.heartbeat_age_s)}. What it held goes to other "
                "nodes when its leases expire.",
                command=f"bpa nodes show {node.node_id}",
            )


def _unread(queues: Sequence[Queue]) -> Iterator[Concern]:
    for queue in queues:
        if queue.trouble:
            yield Concern(
                kind=Kind.QUEUE_UNREAD,
                subject=queue.queue,
                title=f"The queue {queue.queue} cannot be counted",
                detail=queue.detail,
                command="bpa queues",
            )


def _waiting(alive: Sequence[Mapping[str, Any]], now: datetime) -> Iterator[Concern]:
    for row in alive:
        waited_s = (now - row["oldest_at"]).total_seconds()
        if row["waits_for"] and waited_s > _OLD_S and "target" not in row["waits_for"]:
            yield Concern(
                kind=Kind.RUNS_WAIT,
                subject=row["waits_for"],
                title=f"{_counted(row['runs'], 'run')} wait{'s' if row['runs'] == 1 else ''}: "
                f"{row['waits_for']}",
                detail=f"The first of them for {span(waited_s)}.",
                command="bpa runs list --status queued",
            )


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
