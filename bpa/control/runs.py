"""Runs: received once, recorded step by step, ended once.

Every write is a compare-and-set that repeats its guard (status, lease epoch) in the statement.
What arrives while a statement runs goes into the next one, so that a commit is shared by many.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bpa.batching import Batcher
from bpa.control.arrivals import Arrival, arrival_row
from bpa.control.batches import isolated, jsonb
from bpa.control.breakers import Breakers
from bpa.control.decision import Counters, decide
from bpa.control.ends import end_row
from bpa.control.steps import StepReport, distinct, stale, step_row, unrecorded
from bpa.domain.executions import Outcome, OutcomeKind
from bpa.domain.journal import Step
from bpa.domain.runs import TERMINAL, RunId, RunStatus
from bpa.errors import BrokerReason, Conflict, InvalidRequest, NotFound, Reason
from bpa.postgres import Pipeline, Pool, fetch_all, fetch_one, load_queries

_QUERIES = load_queries(__file__)
_COUNTED = frozenset({OutcomeKind.AGENT_FAILED, OutcomeKind.CRASHED, OutcomeKind.NODE_FAILED})

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Received:
    """What an arrival became."""

    run_id: RunId
    delivery_id: int
    is_new: bool
    recorded_at: datetime
    """When, by Postgres's clock: a new run's ``created_at``."""
    verdict: Verdict | None
    """Set when the run is terminal and its message can be settled at once."""

    @property
    def starts_a_run(self) -> bool:
        """Whether it takes room: its run is new and has yet to be worked on."""
        return self.is_new and self.verdict is None


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a run ended, as far as its message is concerned."""

    run_id: RunId
    completed: bool
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that left its node: ended, or waiting again."""

    row: Row
    """The columns that ``finish`` and ``cancel`` return."""
    verdict: Verdict | None
    owner: str | None = None
    """The replica that holds the latest unsettled delivery."""


class Runs:
    """The life of runs in Postgres.

    Args:
        pool: Connections to Postgres.
        writes: Shares commits among what happens at the same time.
        breakers: Hears of targets that fail, and parks their runs.
        replica_id: Who we are, as the owner of deliveries.
        exports_traces: Whether the runs' spans are to be exported.
    """

    def __init__(
        self,
        pool: Pool,
        writes: Pipeline,
        breakers: Breakers,
        replica_id: str,
        *,
        exports_traces: bool = False,
    ) -> None:
        self._pool = pool
        self._writes = writes
        self._breakers = breakers
        self._replica_id = replica_id
        self._exports_traces = exports_traces
        self._receives = Batcher(isolated(self._receive))
        self._steps = Batcher(isolated(self._record_steps))
        self._finishes = Batcher(isolated(self._finish))
        self._settles = Batcher(isolated(self._settled))
        self._listeners: list[Callable[[Ended], None]] = []

    def on_ended(self, listener: Callable[[Ended], None]) -> None:
        """Have ``listener`` called, in this process, for each run that left its node."""
        self._listeners.append(listener)

    async def receive(self, arrival: Arrival) -> Received:
        """Record a delivery and its run, or join the run that the message already has.

        Raises:
            Unavailable: Postgres is away; nothing was recorded.
        """
        return await self._receives.submit(arrival)

    async def record_step(self, run_id: RunId, epoch: int, step: Step) -> None:
        """Append a step's intent or answer to the journal; the same step again changes nothing.

        Raises:
            StaleLease: The lease has moved on.
            Conflict: The step is recorded with another request, other bytes or another answer.
            Unavailable: Postgres is away.
        """
        await self._steps.submit((run_id, epoch, step))

    async def progress(self, run_id: RunId, epoch: int, stage: str) -> None:
        """Note how far an execution has come.

        Raises:
            StaleLease: The lease has moved on.
            Unavailable: Postgres is away.
        """
        row = await fetch_one(
            self._pool, _QUERIES.progress, run_id=run_id, epoch=epoch, stage=stage[:100]
        )
        if row is None:
            raise stale(run_id, epoch)

    async def finish(self, run_id: RunId, epoch: int, outcome: Outcome) -> None:
        """Write down how an execution ended; the same report again is answered alike.

        Raises:
            StaleLease: The lease has moved on.
            InvalidRequest: A rejection without a known reason, or parked by an unnamed target.
            Unavailable: Postgres is away.
        """
        if outcome.kind is OutcomeKind.REJECTED and outcome.reason not in set(Reason):
            raise InvalidRequest(f"{outcome.reason!r} is no dead-letter reason")
        if outcome.kind is OutcomeKind.PARKED and outcome.target is None:
            raise InvalidRequest("an outcome that is parked names the target that it waits for")
        await self._finishes.submit((run_id, epoch, outcome))

    async def cancel(self, run_id: RunId, actor: str, detail: str) -> RunStatus:
        """Have a living run end as ``Cancelled``; asking again changes nothing.

        A run that waits ends here. One that a node has is marked: the node hears it with its next
        heartbeat, and what it does not end in time :meth:`end_cancelled` ends.

        Returns:
            The run's status: ``dead_lettered``, or what it is until its node has ended it.

        Raises:
            NotFound: There is no such run.
            Conflict: It has ended already.
        """
        asked = await self._writes.fetch_all(
            _QUERIES.ask_cancel, lock=[run_id], run_id=run_id, actor=actor, detail=detail
        )
        ended = await self._cancel([run_id], None)  # if it waits, maybe since it was asked before
        row = await fetch_one(self._pool, _QUERIES.status, run_id=run_id)
        if row is None:
            raise NotFound(f"there is no run {run_id}")
        status = RunStatus(row["status"])
        if not asked and not ended and status in TERMINAL:
            raise Conflict(f"run {run_id} is {status}; only a living run can be cancelled")
        return status

    async def end_cancelled(self, grace_s: float) -> int:
        """End the runs to cancel that nobody works on or that got ``grace_s``; return how many."""
        due = await fetch_all(self._pool, _QUERIES.cancellations_due, grace_s=grace_s)
        return await self._cancel([row["run_id"] for row in due], grace_s) if due else 0

    async def trace_id(self, run_id: RunId) -> str:
        """Return the trace of a run; empty where there is no such run.

        Raises:
            Unavailable: Postgres is away.
        """
        row = await fetch_one(self._pool, _QUERIES.status, run_id=run_id)
        return str(row["trace_id"]) if row else ""

    async def hurry(self, run_id: RunId, actor: str) -> bool:
        """End a waiting run's backoff; False when it is not waiting any more."""
        return bool(
            await self._writes.fetch_all(_QUERIES.hurry, lock=[run_id], run_id=run_id, actor=actor)
        )

    async def bury(self, dead: Sequence[tuple[RunId, BrokerReason | Reason, str]]) -> int:
        """End living runs all of whose messages are noted as dead letters; return how many.

        Args:
            dead: Each run with why its message was dead-lettered, and in whose words.
        """
        rows = [{"run_id": run_id, "reason": why, "detail": text} for run_id, why, text in dead]
        ended = await self._writes.fetch_all(
            _QUERIES.bury, lock=[run_id for run_id, _, _ in dead], rows=jsonb(rows)
        )
        for row in ended:
            self._tell(row)
        return len(ended)

    async def settled(self, delivery_id: int, disposition: str) -> None:
        """Note how a delivery was settled."""
        await self._settles.submit((delivery_id, disposition))

    async def announce_end(self, run_id: RunId) -> None:
        """Tell the replica that holds the run's message of its end."""
        await fetch_all(self._pool, _QUERIES.announce_end, run_id=run_id)

    async def verdicts(self, run_ids: Sequence[RunId]) -> list[Verdict]:
        """Return the verdicts of those runs that have ended."""
        rows = await fetch_all(self._pool, _QUERIES.verdicts, run_ids=list(run_ids))
        return [verdict for row in rows if (verdict := _verdict(row))]

    async def aclose(self) -> None:
        """Write down what was submitted."""
        for batcher in (self._receives, self._steps, self._finishes, self._settles):
            await batcher.aclose()

    async def _receive(self, arrivals: list[Arrival]) -> list[Received | Exception]:
        rows = await self._writes.fetch_all(
            _QUERIES.receive,
            rows=jsonb([self._written(a) for a in arrivals]),
            documents=[a.document for a in arrivals],
            digests=[a.body_sha256 for a in arrivals],
        )
        self._tell_of_rejected(rows, arrivals)
        return [
            Received(
                run_id=RunId(row["run_id"]),
                delivery_id=row["delivery_id"],
                is_new=row["is_new"],
                recorded_at=row["recorded_at"],
                verdict=_verdict(row),
            )
            for row in rows
        ]

    def _written(self, arrival: Arrival) -> dict[str, Any]:
        return arrival_row(arrival, self._replica_id, exports_traces=self._exports_traces)

    def _tell_of_rejected(self, rows: Sequence[Row], arrivals: Sequence[Arrival]) -> None:
        """Tell of runs that ended as they were recorded: nothing else will ever end them."""
        new = {row["run_id"]: row for row in rows if row["is_new"]}
        for arrival in arrivals:
            row = new.pop(arrival.run_id, None)
            if row is None or arrival.reason is None:
                continue
            took = max(row["recorded_at"] - arrival.enqueued_at, timedelta(0))
            self._tell(
                {
                    **self._written(arrival),
                    "node_id": None,
                    "owner": None,
                    "latency_ms": took.total_seconds() * 1000,
                }
            )

    async def _record_steps(self, items: list[StepReport]) -> list[Exception | None]:
        outcomes: list[Exception | None] = [None] * len(items)
        for part in distinct(items):
            steps = [items[index][2] for index in part]
            rows = await self._writes.fetch_all(
                _QUERIES.record_steps,
                lock=[items[index][0] for index in part],
                rows=jsonb([step_row(*items[index]) for index in part]),
                intents=[step.intent or None for step in steps],
                answers=[step.answer for step in steps],
            )
            held = {(row["run_id"], row["epoch"], row["seq"]): row["recorded"] for row in rows}
            for index in part:
                outcomes[index] = unrecorded(items[index], held)
        return outcomes

    async def _finish(self, items: list[tuple[RunId, int, Outcome]]) -> list[Exception | None]:
        counters = await self._counters([i for i, _, o in items if o.kind in _COUNTED])
        parked = await self._breakers.heed(items)
        rows = [
            end_row(
                run_id,
                epoch,
                outcome,
                decide(
                    outcome,
                    counters.get(run_id, Counters()),
                    random.random(),  # noqa: S311 - jitter
                    parked.get((run_id, epoch)),
                ),
            )
            for run_id, epoch, outcome in items
        ]
        ended = await self._writes.fetch_all(
            _QUERIES.finish, lock=[run_id for run_id, _, _ in items], rows=jsonb(rows)
        )
        for row in ended:
            self._tell(row)
        done = {(row["run_id"], row["epoch"]) for row in ended}
        missing = [(run_id, epoch) for run_id, epoch, _ in items if (run_id, epoch) not in done]
        if missing:
            again = await fetch_all(
                self._pool,
                _QUERIES.already_finished,
                run_ids=[run_id for run_id, _ in missing],
                epochs=[epoch for _, epoch in missing],
            )
            done |= {(row["run_id"], row["epoch"]) for row in again}
        return [None if (i, epoch) in done else stale(i, epoch) for i, epoch, _ in items]

    async def _counters(self, run_ids: list[RunId]) -> dict[str, Counters]:
        if not run_ids:
            return {}
        rows = await fetch_all(self._pool, _QUERIES.counters, run_ids=run_ids)
        return {row.pop("run_id"): Counters(**row) for row in rows}

    async def _settled(self, items: list[tuple[int, str]]) -> list[Exception | None]:
        await self._writes.fetch_all(
            _QUERIES.settled,
            ids=[i for i, _ in items],
            dispositions=[d for _, d in items],
        )
        return [None] * len(items)

    async def _cancel(self, run_ids: list[RunId], grace_s: float | None) -> int:
        rows = await self._writes.fetch_all(
            _QUERIES.cancel, lock=run_ids, run_ids=run_ids, grace_s=grace_s
        )
        for row in rows:
            self._tell(row)
        return len(rows)

    def _tell(self, row: Row) -> None:
        ended = ended_of(row)
        for listener in self._listeners:
            listener(ended)


def ended_of(row: Row) -> Ended:
    """Return what the statements that take a run off its node say of it."""
    return Ended(row, _verdict(row), row.get("owner"))


def _verdict(row: Row) -> Verdict | None:
    if row["status"] not in (RunStatus.COMPLETED, RunStatus.DEAD_LETTERED):
        return None
    return Verdict(
        RunId(row["run_id"]),
        row["status"] == RunStatus.COMPLETED,
        row["reason"] or "",
        row["detail"] or "",
    )
