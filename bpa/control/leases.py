"""Leases: good once acknowledged, renewed in batches, lapsed by Postgres's clock.

A grant is committed by the scheduler and offered to its node by ``offers``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import structlog

from bpa.batching import Batcher
from bpa.control.batches import isolated, jsonb
from bpa.control.decision import Counters, Decision, lapse
from bpa.control.offers import Offers
from bpa.control.runs import Ended, ended_of
from bpa.domain.runs import NodeId, RunId, RunStatus
from bpa.errors import StaleLease
from bpa.postgres import Pipeline, Pool, fetch_all, load_queries
from bpa.telemetry.spans import fields_of

_QUERIES = load_queries(__file__)
_REFUSED_DELAY_S = 0.2
_REAPED_AT_ONCE = 500
_ASKED = ("cordoned", "draining", "hand_back")
_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Renewal:
    """The answer to a heartbeat."""

    known: bool
    """False when the node must register again."""
    renewed: list[tuple[RunId, int]]
    lost: list[tuple[RunId, int]]
    cancel: list[RunId]
    """Of the renewed ones, those to end politely."""
    cordoned: bool
    draining: bool
    hand_back: bool
    """The drain's deadline has passed: what the node still holds is to be handed back."""


class Cause(StrEnum):
    """Why a lease ends before its run does; checked again as it is ended."""

    EXPIRED = "expired"
    """Its time is over by Postgres's clock."""
    REFUSED = "refused"
    """Its node took it back before it had acknowledged it."""


@dataclass(frozen=True, slots=True)
class _Lost:
    """A lease that is to end, and what becomes of its run."""

    run_id: RunId
    epoch: int
    cause: Cause
    decision: Decision


class Leases:
    """Acknowledgements, renewals and lapses.

    Args:
        pool: Connections to Postgres.
        writes: Shares commits among what happens at the same time.
        ttl_s: How long a lease lasts from its acknowledgement or renewal.
        offers: Where offers that were answered or are over are forgotten.
        heartbeat_every_s: What nodes are told to keep to.
    """

    def __init__(
        self,
        pool: Pool,
        writes: Pipeline,
        ttl_s: float,
        offers: Offers,
        *,
        heartbeat_every_s: float = 5.0,
    ) -> None:
        self.ttl_s = ttl_s
        self.heartbeat_every_s = heartbeat_every_s
        self._pool = pool
        self._writes = writes
        self._offers = offers
        self._acknowledgements = Batcher(isolated(self._acknowledge))
        self._listeners: list[Callable[[Ended], None]] = []

    def on_ended(self, listener: Callable[[Ended], None]) -> None:
        """Have ``listener`` called, in this process, for each run whose lease ended here."""
        self._listeners.append(listener)

    async def acknowledge(self, run_id: RunId, epoch: int) -> None:
        """Turn an offer into a lease.

        Raises:
            StaleLease: The offer is over; the node must not start.
        """
        await self._acknowledgements.submit((run_id, epoch))
        self._offers.forget(run_id, epoch)

    async def refuse(self, run_id: RunId, epoch: int, why: str) -> None:
        """Take an offer back that its node has no room for; it costs the run nothing but a pause.

        A node refuses for lack of room alone (its slots, a drain, an execution that still ends),
        which is no fault of anybody: the node is the last judge of its slots. What I10 counts as
        infrastructure's fault is an offer that the node took and could not start (``NODE_FAILED``)
        and one that it could not read, which lapses.

        Raises:
            StaleLease: The offer was over already.
        """
        decision = Decision(
            RunStatus.QUEUED, waiting_reason=f"refused by its node: {why}", delay_s=_REFUSED_DELAY_S
        )
        if not await self._lapse([_Lost(run_id, epoch, Cause.REFUSED, decision)]):
            raise StaleLease(f"the offer {epoch} of run {run_id} is over")

    async def renew(
        self,
        node_id: NodeId,
        boot_id: str,
        held: Sequence[tuple[RunId, int]],
        *,
        closing: bool = False,
    ) -> Renewal:
        """Renew what a node holds, for one time to live from now; tell what it has lost.

        A node that is ``closing`` drains of its own accord and gets no new leases.
        """
        rows = await fetch_all(
            self._pool,
            _QUERIES.renew,
            run_ids=[run_id for run_id, _ in held],
            epochs=[epoch for _, epoch in held],
            node_id=node_id,
            boot_id=boot_id,
            ttl_s=self.ttl_s,
            every_s=self.heartbeat_every_s,
            closing=closing,
        )
        renewed = [(RunId(row["run_id"]), row["epoch"]) for row in rows if row["run_id"]]
        kept = set(renewed)
        lost = [pair for pair in held if pair not in kept]
        cancel = [RunId(row["run_id"]) for row in rows if row["cancelling"]]
        asked = {name: bool(rows) and rows[0][name] for name in _ASKED}
        return Renewal(bool(rows), renewed, lost, cancel, **asked)

    async def reap(self) -> int:
        """End leases whose time is over; return how many."""
        reaped = 0
        while True:
            rows = await fetch_all(self._pool, _QUERIES.over, most=_REAPED_AT_ONCE)
            ended = await self._lapse([_over(row) for row in rows]) if rows else 0
            reaped += ended
            if not ended or len(rows) < _REAPED_AT_ONCE:
                return reaped

    def taken_back(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Forget offers that were withdrawn from their node, and tell who listens.

        Args:
            rows: Their runs, as they wait again, each with the epoch of its offer.
        """
        for row in rows:
            self._offers.forget(RunId(row["run_id"]), row["epoch"])
            self._tell(row)

    async def aclose(self) -> None:
        """Write down what was submitted."""
        await self._acknowledgements.aclose()

    async def _acknowledge(self, items: list[tuple[RunId, int]]) -> list[Exception | None]:
        rows = await self._writes.fetch_all(
            _QUERIES.acknowledge,
            lock=[run_id for run_id, _ in items],
            run_ids=[run_id for run_id, _ in items],
            epochs=[epoch for _, epoch in items],
            ttl_s=self.ttl_s,
        )
        held = {(row["run_id"], row["epoch"]) for row in rows}
        return [
            None if item in held else StaleLease(f"the offer {item[1]} of run {item[0]} is over")
            for item in items
        ]

    async def _lapse(self, lost: Sequence[_Lost]) -> int:
        rows = [
            {
                "run_id": one.run_id,
                "epoch": one.epoch,
                "cause": one.cause,
                "status": one.decision.status,
                "reason": one.decision.reason,
                "detail": one.decision.detail,
                "waiting_reason": one.decision.waiting_reason,
                "infra_failures": one.decision.infra_failures,
                "delay_s": one.decision.delay_s,
            }
            for one in lost
        ]
        moved = await self._writes.fetch_all(
            _QUERIES.lapse, lock=[one.run_id for one in lost], rows=jsonb(rows)
        )
        for one in lost:
            self._offers.forget(one.run_id, one.epoch)
        by_run = {one.run_id: one for one in lost}
        for row in moved:
            one = by_run[row["run_id"]]
            _log.warning(
                "lease_ended",
                **fields_of(one.run_id, row["trace_id"], "lease", one.epoch),
                node_id=row["node_id"],
                cause=one.cause,
                why=one.decision.detail or one.decision.waiting_reason,
                status=row["status"],
            )
            self._tell(row)
        return len(moved)

    def _tell(self, row: Mapping[str, Any]) -> None:
        for listener in self._listeners:
            listener(ended_of(row))


def _over(row: Mapping[str, Any]) -> _Lost:
    what = "does not know the lease any more" if row["missing"] else "was lost"
    if row["never_acknowledged"]:
        what = "never acknowledged the lease"
    why = f"node {row['node_id']} {what}"
    if row["was_to_hand_back"]:  # as a hand-back, it costs the run nothing (I10)
        decision = Decision(RunStatus.QUEUED, waiting_reason=f"{why} while it drained")
        return _Lost(RunId(row["run_id"]), row["epoch"], Cause.EXPIRED, decision)
    counters = Counters(row["agent_failures"], row["crashes"], row["infra_failures"])
    decision = lapse(why, counters, random.random())  # noqa: S311 - jitter, not a secret
    return _Lost(RunId(row["run_id"]), row["epoch"], Cause.EXPIRED, decision)
