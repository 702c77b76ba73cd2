"""What has changed, for pages that show it live: told to all of them from one look a second.

A look compares marks of what is alive with those of the look before, and costs nothing while nobody
listens. Runs pay nothing for it: no trigger, no column, no NOTIFY as they move. An event says what
has changed and not how; whoever shows it asks again.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import structlog

from bpa.domain.runs import TERMINAL
from bpa.errors import Unavailable
from bpa.postgres import Pool, fetch_all, load_queries

_QUERIES = load_queries(__file__)
STREAMS_AT_MOST = 500
RUNS_AT_MOST = 200
"""Named in one event; whoever shows more runs than that asks for all of them anyway."""
_LOOK_EVERY_S = 1.0
_ALIVE_AT_MOST = 1_000
_KEPT = 8
"""Events that a listener may be behind; one that is further has to ask for everything again."""

_log = structlog.stdlib.get_logger(__name__)


class Topic(StrEnum):
    """What kinds of things change."""

    RUN = "run"
    NODE = "node"
    QUEUE = "queue"
    DEPLOYMENT = "deployment"
    BREAKER = "breaker"
    OPERATION = "operation"


Seen = Mapping[tuple[Topic, str], tuple[str, str, str]]
"""By topic and id: status, deployment and mark; the first two of runs alone."""


@dataclass(frozen=True, slots=True)
class MovedRun:
    """A run that has changed, as it is now."""

    run_id: str
    status: str
    dep_id: str


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What one look found."""

    number: int
    """Counts the changes that this replica saw."""
    runs: tuple[MovedRun, ...] = ()
    more_runs: bool = False
    """More have changed than are named."""
    others: Mapping[Topic, tuple[str, ...]] = field(default_factory=dict)
    """Ids of what else has changed."""
    is_gap: bool = False
    """Something may have been missed: whoever hears of it asks for everything again."""
    written: dict[frozenset[Topic], bytes] = field(default_factory=dict)
    """As streams of these topics tell it: written once for all of them."""

    def topics(self) -> frozenset[Topic]:
        """Return what it tells of."""
        runs = {Topic.RUN} if self.runs else set()
        return frozenset(Topic) if self.is_gap else frozenset(runs | self.others.keys())


class Listener:
    """What one stream has yet to tell its client."""

    def __init__(self, topics: frozenset[Topic]) -> None:
        self.topics = topics
        self._kept: list[Change] = []
        self._heard = asyncio.Event()

    async def next(self) -> Change:
        """Wait for the next change of these topics."""
        await self._heard.wait()
        change = self._kept.pop(0)
        if not self._kept:
            self._heard.clear()
        return change

    def tell(self, change: Change) -> None:
        """Keep a change for the client, or the news that it has missed some."""
        if change.topics().isdisjoint(self.topics):
            return
        if len(self._kept) >= _KEPT:
            self._kept = []
            change = Change(change.number, is_gap=True)
        self._kept.append(change)
        self._heard.set()


class Changes:
    """Looks for what has changed and tells those who listen.

    Args:
        pool: Connections to Postgres.
        silent_after_s: A node that was not heard of for longer is silent.
    """

    def __init__(self, pool: Pool, *, silent_after_s: float) -> None:
        self._pool = pool
        self._values = {"silent_after_s": silent_after_s, "limit": _ALIVE_AT_MOST}
        self._listeners: set[Listener] = set()
        self._somebody = asyncio.Event()
        self._seen: Seen | None = None
        self._looking = asyncio.Event()
        self.era = uuid.uuid4().hex[:8]
        """Of the numbers: each replica counts for itself."""
        self.number = 0
        """Of the last change. Whoever knows it has missed nothing; it moves on when the looks were
        interrupted, too."""

    def id_of(self, number: int) -> str:
        """Return the id under which streams tell a change."""
        return f"{self.era}-{number}"

    def last_id(self) -> str:
        """Return the id of the last change."""
        return self.id_of(self.number)

    def check_room(self) -> None:
        """Refuse another stream where there are too many.

        Raises:
            Unavailable: So many are open.
        """
        if len(self._listeners) >= STREAMS_AT_MOST:
            raise Unavailable(
                f"this replica has {STREAMS_AT_MOST} streams open, which is all it serves; close "
                "some pages, or ask another replica"
            )

    async def looking(self) -> int:
        """Wait until changes are looked for, and return the number of the last one.

        What is asked for after that and what a listener hears leave no gap between them.
        """
        await self._looking.wait()
        return self.number

    @contextmanager
    def listening(self, topics: frozenset[Topic]) -> Iterator[Listener]:
        """Hear of changes of these topics while the context is open."""
        listener = Listener(topics)
        self._listeners.add(listener)
        self._somebody.set()
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
            if not self._listeners:
                self._somebody.clear()

    async def run(self) -> None:
        """Look every second while somebody listens, until cancelled."""
        while True:
            if not self._somebody.is_set():
                self._forget()  # what changes meanwhile concerns nobody
                await self._somebody.wait()
            try:
                await self.one_pass()
            except Unavailable as error:
                if self._looking.is_set():
                    _log.warning("changes_unknown", error=str(error))
                self._forget()
            await asyncio.sleep(_LOOK_EVERY_S)

    async def one_pass(self) -> int:
        """Look once and tell what has changed; return how many things have.

        Raises:
            Unavailable: Postgres is away.
        """
        rows = await fetch_all(self._pool, _QUERIES.look, **self._values)
        seen: Seen = {
            (Topic(row["kind"]), row["id"]): (row["status"], row["dep_id"], row["mark"])
            for row in rows
        }
        before, self._seen = self._seen, seen
        if before is None:
            self._looking.set()
            self._tell(Change(self._next(), is_gap=True))
            return 0
        runs = [*moved_runs(before, seen), *await self._ended(gone_runs(before, seen))]
        others = changed_others(before, seen)
        if runs or others:
            named = tuple(runs[:RUNS_AT_MOST])
            self._tell(Change(self._next(), named, len(runs) > len(named), others))
        return len(runs) + sum(len(ids) for ids in others.values())

    def _forget(self) -> None:
        self._seen = None
        self._looking.clear()

    async def _ended(self, run_ids: list[str]) -> list[MovedRun]:
        if not run_ids:
            return []
        rows = await fetch_all(self._pool, _QUERIES.ended, run_ids=run_ids)
        return [MovedRun(row["run_id"], row["status"], row["dep_id"]) for row in rows]

    def _next(self) -> int:
        self.number += 1
        return self.number

    def _tell(self, change: Change) -> None:
        for listener in self._listeners:
            listener.tell(change)


def moved_runs(before: Seen, now: Seen) -> list[MovedRun]:
    """Return the runs that are new or have moved, those first that are alive."""
    return [
        MovedRun(run_id, status, dep_id)
        for (topic, run_id), (status, dep_id, mark) in now.items()
        if topic is Topic.RUN and before.get((topic, run_id)) != (status, dep_id, mark)
    ]


def gone_runs(before: Seen, now: Seen) -> list[str]:
    """Return the runs that were alive and are not among those that are seen now."""
    return [
        run_id
        for (topic, run_id), (status, _, _) in before.items()
        if topic is Topic.RUN and status not in TERMINAL and (topic, run_id) not in now
    ]


def changed_others(before: Seen, now: Seen) -> dict[Topic, tuple[str, ...]]:
    """Return what else is new, has changed or is gone."""
    changed: dict[Topic, dict[str, Any]] = {}
    for key in before.keys() | now.keys():
        topic, name = key
        if topic is not Topic.RUN and before.get(key) != now.get(key):
            changed.setdefault(topic, {})[name] = None
    return {topic: tuple(sorted(names)) for topic, names in changed.items()}
