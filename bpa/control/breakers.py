"""The fleet's circuit breakers in Postgres: what nodes saw of a target, one row for each host.

Only reports that concern a breaker come here: of targets that failed, and, while a breaker is not
closed, of those that answered. A host's row is locked, read, decided on by `bpa.scheduler.breakers`
and written, before the run's end is written: so that a breaker is open before the scheduler finds
the run waiting again. Each report may come twice; the second time it changes nothing.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import structlog

from bpa.control.batches import jsonb
from bpa.domain.executions import Outcome, OutcomeKind, TargetSeen
from bpa.domain.runs import RunId
from bpa.errors import Reason
from bpa.postgres import Pool, fetch_all, load_queries, translated
from bpa.scheduler.breakers import (
    BreakerState,
    Failure,
    HostBreaker,
    Parking,
    failed,
    passed,
)
from bpa.telemetry.metrics import Metrics

_QUERIES = load_queries(__file__)
_COLUMNS = tuple(field.name for field in fields(HostBreaker))
_log = structlog.stdlib.get_logger(__name__)

Report = tuple[RunId, int, Outcome]


@dataclass(frozen=True, slots=True)
class _Locked:
    """A breaker whose row is locked, by Postgres's clock."""

    breaker: HostBreaker
    run_limit: int
    now: datetime


class Breakers:
    """What is known of the targets' hosts.

    Args:
        pool: Connections to Postgres.
        metrics: Counts probes and parked runs.
    """

    def __init__(self, pool: Pool, metrics: Metrics) -> None:
        self._pool = pool
        self._metrics = metrics

    async def heed(self, reports: Iterable[Report]) -> dict[tuple[RunId, int], Parking]:
        """Take what executions saw of their targets, and return how which of their runs wait.

        Args:
            reports: Run, epoch and outcome of each; most concern no breaker.

        Raises:
            Unavailable: Postgres is away.
        """
        parked: dict[tuple[RunId, int], Parking] = {}
        answered: defaultdict[str, list[tuple[str, int, int]]] = defaultdict(list)
        for run_id, epoch, outcome in reports:
            seen = outcome.target
            if seen is None:
                continue
            if seen.error or outcome.kind is OutcomeKind.PARKED:
                parking = await self._failed(run_id, epoch, outcome, seen)
                if parking is not None:
                    parked[run_id, epoch] = parking
            else:
                answered[seen.host].append((run_id, epoch, seen.closings))
        for host, runs in answered.items():
            await self._answered(host, runs)
        return parked

    async def page(self) -> list[dict[str, Any]]:
        """List the breakers of all hosts that have failed, open ones first."""
        return await fetch_all(self._pool, _QUERIES.page)

    async def _failed(
        self, run_id: RunId, epoch: int, outcome: Outcome, seen: TargetSeen
    ) -> Parking | None:
        key = {"host": seen.host, "run_id": run_id, "epoch": epoch}
        with translated():
            async with self._pool.connection() as connection, connection.transaction():
                locked = await _seize(connection, seen.host)
                cursor = await connection.execute(_QUERIES.circumstances, key)
                known = await cursor.fetchone()
                if known is None:
                    return None  # the lease has moved on, or the report was heeded before
                failure = Failure(
                    run_id=run_id,
                    exhausted=outcome.kind is not OutcomeKind.PARKED,
                    closings=seen.closings,
                    tries=seen.tries,
                    error=seen.error,
                    **known,
                )
                jitter = random.random()  # noqa: S311 - jitter, not a secret
                after, parking = failed(locked.breaker, failure, locked.now, jitter)
                await _write(connection, after)
        if outcome.reason == Reason.OUTCOME_UNKNOWN:
            parking = None  # the breaker has heard of it; waiting does not make it known
        if failure.is_probe:
            self._metrics.probes.labels(self._metrics.host(seen.host), "failed").inc()
        if parking is not None:
            self._metrics.runs_parked.labels(self._metrics.host(seen.host)).inc()
        _tell(locked.breaker, after)
        return parking

    async def _answered(self, host: str, runs: Sequence[tuple[str, int, int]]) -> None:
        with translated():
            async with self._pool.connection() as connection, connection.transaction():
                locked = await _seize(connection, host)
                after = passed(locked.breaker, runs, locked.run_limit, locked.now)
                if after is not locked.breaker:
                    await _write(connection, after)
        if after.closings > locked.breaker.closings:
            self._metrics.probes.labels(self._metrics.host(host), "answered").inc()
        _tell(locked.breaker, after)


async def _seize(connection: Any, host: str) -> _Locked:
    await connection.execute(_QUERIES.seize, {"host": host})
    cursor = await connection.execute(_QUERIES.row, {"host": host})
    row = await cursor.fetchone()
    known = {**row, "state": BreakerState(row["state"])}
    breaker = HostBreaker(**{name: known[name] for name in _COLUMNS})
    return _Locked(breaker, row["run_limit"], row["now"])


async def _write(connection: Any, breaker: HostBreaker) -> None:
    values: Mapping[str, Any] = {name: getattr(breaker, name) for name in _COLUMNS}
    objects = {name: jsonb(values[name]) for name in ("deployments", "exhausted")}
    await connection.execute(_QUERIES.write, {**values, **objects})


_EVENTS = {
    BreakerState.OPEN: "breaker_opened",
    BreakerState.CLOSING: "breaker_closing",
    BreakerState.CLOSED: "breaker_closed",
}


def _tell(before: HostBreaker, after: HostBreaker) -> None:
    log = _log.bind(host=after.host, closings=after.closings, error=after.last_error)
    if before.state is not after.state:
        log.warning(_EVENTS[after.state], probe_at=_iso(after.probe_at), ramp=after.ramp)
    elif after.failed_probes > before.failed_probes:
        log.warning("probe_failed", probe_at=_iso(after.probe_at))


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
