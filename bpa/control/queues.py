"""Queues: how much waits in each that is fed from, as all replicas know it.

One replica at a time reads a queue and writes down what it saw; every replica shows the same rows,
as metrics and over REST. Counting costs the broker something, so it is asked as often whatever the
number of replicas.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import structlog

from bpa.connectors.service_bus import Backlog, Trouble
from bpa.errors import Unavailable
from bpa.postgres import Pool, fetch_all, load_queries
from bpa.telemetry.metrics import Metrics

MAX_DELIVERY_COUNT_LEAST = 10
"""Below, the broker may bury a message before the platform can say why (I10)."""
AT_ONCE = 8
"""Queues that one replica reads at the same time."""
_LOOKS_PER_READING = 8
"""How often a replica looks whether a reading is due, and shows what others read."""

_QUERIES = load_queries(__file__)
_log = structlog.stdlib.get_logger(__name__)


class Reader(Protocol):
    """What is read of a queue."""

    async def read(self, queue: str) -> Backlog:
        """Return what waits there, or why that cannot be told."""


class Queues:
    """The queues that the deployments of one environment feed from.

    Args:
        environment: Whose deployments.
        pool: Connections to Postgres.
        reader: Reads a queue.
        metrics: Where the rows are shown.
        every_s: Seconds between two readings of a queue, whoever makes them; one takes half of that
            at most.
        steady: A clock that is never set, seconds.
    """

    def __init__(
        self,
        environment: str,
        pool: Pool,
        reader: Reader,
        metrics: Metrics,
        every_s: float,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._environment = environment
        self._pool = pool
        self._reader = reader
        self._gauges = _Gauges(metrics, steady)
        self._every_s = every_s

    async def run(self) -> None:
        """Read what is due and show what is known, until cancelled.

        Postgres being away is waited out, and said where its readiness is told.
        """
        while True:
            try:
                measured = await self.one_pass()
            except Unavailable:
                measured = 0  # what is shown stays, and says how old it is
            if measured < AT_ONCE:
                pause_s = self._every_s / _LOOKS_PER_READING
                await asyncio.sleep(pause_s * (0.5 + random.random()))  # noqa: S311 - jitter

    async def one_pass(self) -> int:
        """Read some of the queues whose turn it is, show what is known of all; return how many.

        Raises:
            Unavailable: Postgres is away.
        """
        await fetch_all(self._pool, _QUERIES.list_fed)
        await fetch_all(self._pool, _QUERIES.drop_unfed)
        claimed = await fetch_all(
            self._pool,
            _QUERIES.claim,
            env=self._environment,
            every_s=self._every_s,
            at_most=AT_ONCE,
        )
        async with asyncio.TaskGroup() as tasks:
            for row in claimed:
                tasks.create_task(self._measure(row))
        self._gauges.show(await self.page())
        return len(claimed)

    async def page(self) -> list[dict[str, Any]]:
        """List the queues with what was last read of each; raises as `one_pass`."""
        least = MAX_DELIVERY_COUNT_LEAST
        return await fetch_all(self._pool, _QUERIES.page, env=self._environment, least=least)

    async def _measure(self, before: dict[str, Any]) -> None:
        """Read one queue; a reading that cannot be written down is lost, and soon made again."""
        backlog = await self._read(before["queue"])
        try:
            await self._write(before, backlog)
        except Unavailable:
            return  # what is asked next says so
        _tell(before, backlog)

    async def _write(self, before: dict[str, Any], backlog: Backlog) -> None:
        turn = {"queue": before["queue"], "claimed_at": before["claimed_at"]}
        said = {"trouble": backlog.trouble, "detail": backlog.detail}
        if backlog.counts is None and backlog.trouble is not Trouble.NOT_FOUND:
            await fetch_all(self._pool, _QUERIES.unmeasured, **turn, **said)
        else:
            counts = asdict(backlog.counts) if backlog.counts else _NO_COUNTS
            await fetch_all(
                self._pool,
                _QUERIES.measured,
                **turn,
                **said,
                **counts,
                oldest_enqueued_at=backlog.oldest_enqueued_at,
                max_delivery_count=backlog.max_delivery_count,
            )

    async def _read(self, queue: str) -> Backlog:
        most_s = self._every_s / 2
        try:
            async with asyncio.timeout(most_s):
                return await self._reader.read(queue)
        except TimeoutError:
            why = f"the broker does not answer within {most_s:g} s"
            return Backlog(trouble=Trouble.UNREADABLE, detail=why)


_NO_COUNTS = {
    "active": None,
    "active_at_least": False,
    "scheduled": None,
    "dead_letters": None,
    "dead_letters_at_least": False,
    "estimated": False,
}


def _is_low(max_delivery_count: int | None) -> bool:
    """Tell whether the broker may bury messages before the platform names the reason."""
    return max_delivery_count is not None and max_delivery_count < MAX_DELIVERY_COUNT_LEAST


def _tell(before: dict[str, Any], backlog: Backlog) -> None:
    """Log what begins and what ends, by the row that all replicas share."""
    log = _log.bind(queue=before["queue"])
    if backlog.trouble is not None and backlog.trouble != before["trouble"]:
        log.warning(
            "queue_reading_troubled",
            trouble=backlog.trouble,
            detail=backlog.detail,
            estimated=backlog.counts is not None and backlog.counts.estimated,
        )
    elif backlog.trouble is None and before["trouble"] is not None:
        log.info("queue_reading_well", was=before["trouble"])
    if _is_low(backlog.max_delivery_count) and not _is_low(before["max_delivery_count"]):
        log.warning(
            "max_delivery_count_low",
            max_delivery_count=backlog.max_delivery_count,
            effect="the broker may dead-letter messages before the platform can say why",
            remedy=f"set it to {MAX_DELIVERY_COUNT_LEAST} or more",
        )


class _Gauges:
    """Shows rows as metrics; those of a queue that nobody feeds from any more are removed.

    Args:
        metrics: The process's.
        steady: A clock that is never set, seconds.
    """

    def __init__(self, metrics: Metrics, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._numbers = {
            "active": metrics.queue_lag,
            "oldest_age_s": metrics.queue_oldest_age_s,
            "dead_letters": metrics.queue_dead_letters,
            "estimated": metrics.queue_lag_estimated,
        }
        self._reading_age_s = metrics.queue_reading_age_s
        self._shown: set[str] = set()

    def show(self, rows: Sequence[dict[str, Any]]) -> None:
        """Take the rows as they are now; the age of a reading goes on by itself until the next."""
        listed = {row["queue"]: row for row in rows if row["reading_age_s"] is not None}
        for queue in self._shown - listed.keys():
            self._remove(queue, *self._numbers)
            self._reading_age_s.remove(queue)
        for queue, row in listed.items():
            numbers = _numbers(row)
            self._remove(queue, *(self._numbers.keys() - numbers.keys()))
            for name, number in numbers.items():
                self._numbers[name].labels(queue).set(number)
            self._reading_age_s.labels(queue).set_function(self._ageing(row["reading_age_s"]))
        self._shown = set(listed)

    def _remove(self, queue: str, *names: str) -> None:
        for name in names:
            self._numbers[name].remove(queue)

    def _ageing(self, age_s: float) -> Callable[[], float]:
        seen_s = self._steady()
        return lambda: age_s + self._steady() - seen_s


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    """Return what is known of a queue; where nothing waits, its age is 0."""
    if row["measured_at"] is None:
        return {}
    oldest_age_s = row["oldest_age_s"] if row["active"] else 0.0
    numbers = {**row, "oldest_age_s": oldest_age_s}
    names = ("active", "oldest_age_s", "dead_letters", "estimated")
    return {name: numbers[name] for name in names if numbers[name] is not None}
