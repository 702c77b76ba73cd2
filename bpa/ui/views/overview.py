"""The overview: what needs somebody, how the last hour went, where runs are at this moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from bpa.control.rest.breaker_schemas import Breaker
from bpa.control.rest.node_schemas import Node
from bpa.control.rest.queue_schemas import Queue
from bpa.control.trends import Trend
from bpa.ui.views import charts, status
from bpa.ui.views.last_hour import last_hour
from bpa.ui.words import ago, count
from bpa.words import segment, span

_OLD_S = 60.0
"""A message that waits longer than this wants a look."""
_STALE_S = 90.0
"""A reading of a queue that is older than this no longer says how it is."""


@dataclass(frozen=True, slots=True)
class Concern:
    """Something that needs somebody."""

    tone: str
    icon: str
    title: str
    detail: str
    path: str
    action: str
    command: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where on their way runs are, and how many."""

    name: str
    label: str
    runs: str
    is_busy: bool
    path: str


@dataclass(frozen=True, slots=True)
class Overview:
    """The whole page."""

    concerns: Sequence[Concern]
    places: Sequence[Place]
    charts: Sequence[charts.Chart]
    queues: Sequence[Queue]
    waits: Sequence[Mapping[str, Any]]
    is_fresh: bool
    """Nothing has ever come."""
    died: int
    """Runs that were dead-lettered in the last hour; the queues may not have been read since."""

    @property
    def well(self) -> str:
        """What is said where nothing asks for attention, and not more than is known."""
        if not self.died:
            return "All is well: no dead letters, every node is heard of, every target answers."
        noun = "run was" if self.died == 1 else "runs were"
        return (
            f"{count(self.died)} {noun} dead-lettered in the last hour; none was left when the "
            "queues were last read. Every node is heard of, every target answers."
        )

    @property
    def said(self) -> str:
        """What changed, in a sentence for who listens to the page."""
        if not self.concerns:
            return self.well
        things = "thing needs" if len(self.concerns) == 1 else "things need"
        return f"{len(self.concerns)} {things} attention: {self.concerns[0].title}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What services tell."""

    queues: Sequence[Queue]
    breakers: Sequence[Breaker]
    nodes: Sequence[Node]
    alive: Sequence[Mapping[str, Any]]
    trend: Trend


def overview(known: Known, now: datetime) -> Overview:
    """Return what the page shows."""
    overall = known.trend.overall
    return Overview(
        concerns=list(_concerns(known, now)),
        places=_places(known),
        charts=last_hour(known.trend, known.queues, known.alive, now),
        queues=known.queues,
        waits=[row for row in known.alive if row["waits_for"]],
        died=overall["dead_lettered"],
        is_fresh=not known.alive
        and not overall["completed"] + overall["dead_lettered"]
        and not sum(queue.active or 0 for queue in known.queues),
    )


def _concerns(known: Known, now: datetime) -> Iterator[Concern]:
    yield from _dead(known.queues)
    yield from _parked(known.breakers, now)
    yield from _silent(known.nodes)
    yield from _unread(known.queues)
    yield from _waiting(known.alive, now)


def _dead(queues: Sequence[Queue]) -> Iterator[Concern]:
    for queue in queues:
        if queue.dead_letters:
            noun = "dead letter" if queue.dead_letters == 1 else "dead letters"
            yield Concern(
                "bad", "dead", f"{count(queue.dead_letters)} {noun} in {queue.queue}",
                "Messages that could not become a result, each with its reason. Look inside, mend "
                "what is wrong, replay.",
                "/ui/dead-letters?" + urlencode({"queue": queue.queue}),
                "Look into them", "bpa dlq list",
            )  # fmt: skip


def _parked(breakers: Sequence[Breaker], now: datetime) -> Iterator[Concern]:
    for breaker in breakers:
        if breaker.state == "closed":
            continue
        runs = f"{count(breaker.parked_runs)} run{'' if breaker.parked_runs == 1 else 's'} parked"
        probe = f"; next probe {ago(breaker.probe_at, now)}" if breaker.probe_at else ""
        yield Concern(
            "wait", "pause", f"{breaker.host} does not answer",
            f"{runs}; they go on by themselves when it answers again{probe}. "
            f"Last seen: {breaker.last_error}",
            "/ui/runs?" + urlencode({"q": "status:queued"}),
            "See what waits", "bpa breakers",
        )  # fmt: skip


def _silent(nodes: Sequence[Node]) -> Iterator[Concern]:
    for node in nodes:
        if node.heartbeat_age_s > status.SILENT_AFTER_S:
            yield Concern(
                "bad", "silent", f"{node.node_id} is silent",
                f"Not heard of for {span(node.heartbeat_age_s)}. What it held goes to other nodes "
                "when its leases expire.",
                f"/ui/fleet/{segment(node.node_id)}", "Look at the node",
                f"bpa nodes show {node.node_id}",
            )  # fmt: skip


def _unread(queues: Sequence[Queue]) -> Iterator[Concern]:
    for queue in queues:
        if queue.trouble:
            yield Concern(
                "wait", "silent", f"The queue {queue.queue} cannot be counted", queue.detail,
                "/ui/deployments", "Look at what feeds from it", "bpa queues",
            )  # fmt: skip


def _waiting(alive: Sequence[Mapping[str, Any]], now: datetime) -> Iterator[Concern]:
    for row in alive:
        waited_s = (now - row["oldest_at"]).total_seconds()
        if row["waits_for"] and waited_s > _OLD_S and "target" not in row["waits_for"]:
            runs = "1 run waits" if row["runs"] == 1 else f"{count(row['runs'])} runs wait"
            yield Concern(
                "wait", "wait", f"{runs}: {row['waits_for']}",
                f"The first of them for {span(waited_s)}.",
                "/ui/runs?" + urlencode({"q": "status:queued"}), "See what waits",
                "bpa runs list --status queued",
            )  # fmt: skip


def _places(known: Known) -> list[Place]:
    by = {"queued": 0, "offered": 0, "running": 0}
    for row in known.alive:
        by[row["status"]] += row["runs"]
    active = sum(queue.active or 0 for queue in known.queues)
    unreceived = max(0, active - sum(by.values()))
    done = known.trend.overall
    at = "/ui/runs?q=status%3A"
    return [
        _place("receive", "in the queue", unreceived, "/ui/deployments"),
        _place("plan", "waiting for a slot", by["queued"], f"{at}queued"),
        _place("lease", "offered", by["offered"], f"{at}offered"),
        _place("think", "at work", by["running"], f"{at}running"),
        _place("complete", "done in the last hour", done["completed"], f"{at}completed"),
        _place("dead", "dead-lettered in the last hour", done["dead_lettered"],
               f"{at}dead-lettered"),
    ]  # fmt: skip


def _place(name: str, label: str, runs: int, path: str) -> Place:
    return Place(name, label, count(runs), runs > 0, path)
