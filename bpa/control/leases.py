"""Leases: offered to a node, good once acknowledged, renewed in batches, lapsed by our clock.

A grant is committed by the scheduler; here it becomes an offer down the stream of its node. The
replica that holds the stream sends it: the others are told over the channel ``offers``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import random
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import structlog

from bpa.batching import Batcher
from bpa.control.batches import isolated, jsonb
from bpa.control.decision import Counters, Decision, lapse
from bpa.control.offers import NodeStream, Offered, offer_of, step_of
from bpa.control.runs import Ended, ended_of
from bpa.domain import (
    LeaseOffer,
    NodeId,
    RunId,
    RunStatus,
    Step,
)
from bpa.errors import NotFound, StaleLease, Unavailable
from bpa.postgres import Notifications, Pipeline, Pool, fetch_all, load_queries
from bpa.scheduler.commit import Grant
from bpa.telemetry import Metrics, Tracing

_QUERIES = load_queries(__file__)
_REFUSED_DELAY_S = 0.2
_REAPED_AT_ONCE = 500
_UNANSWERED_S = 1.0
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
    """Offers, acknowledgements, renewals and lapses.

    Args:
        pool: Connections to Postgres.
        writes: Shares commits among what happens at the same time.
        ttl_s: How long a lease lasts from its acknowledgement or renewal.
        tracing: Where the spans ``plan`` and ``lease`` go.
        metrics: Counts the runs that were first leased.
        heartbeat_every_s: What nodes are told to keep to.
    """

    def __init__(
        self,
        pool: Pool,
        writes: Pipeline,
        ttl_s: float,
        tracing: Tracing,
        metrics: Metrics,
        *,
        heartbeat_every_s: float = 5.0,
    ) -> None:
        self.ttl_s = ttl_s
        self.heartbeat_every_s = heartbeat_every_s
        self._pool = pool
        self._writes = writes
        self._tracing = tracing
        self._metrics = metrics
        self._streams: dict[NodeId, NodeStream] = {}
        self._offered: dict[tuple[RunId, int], Offered] = {}
        self._broken: asyncio.Queue[NodeStream] = asyncio.Queue()
        self._closing = False
        self._acknowledgements = Batcher(isolated(self._acknowledge))
        self._listeners: list[Callable[[Ended], None]] = []

    def on_ended(self, listener: Callable[[Ended], None]) -> None:
        """Have ``listener`` called, in this process, for each run whose lease ended here."""
        self._listeners.append(listener)

    def connected(self, node_id: NodeId) -> str | None:
        """Return the boot id of the node's stream at this replica, if it has one."""
        stream = self._streams.get(node_id)
        return stream.boot_id if stream else None

    async def stream(self, node_id: NodeId, boot_id: str) -> AsyncGenerator[LeaseOffer, None]:
        """Yield the node's offers for as long as the caller listens; the newest stream wins.

        When it breaks, that is noted for all replicas: the node may be gone.

        Raises:
            NotFound: The node is not registered with this boot id.
        """
        async with self._opened(node_id, boot_id) as stream:
            while True:
                yield await stream.get()

    async def pull(
        self, node_id: NodeId, boot_id: str, wait_s: float, most: int
    ) -> list[LeaseOffer]:
        """Return up to ``most`` offers, waiting at most ``wait_s`` for the first (REST).

        A caller that hangs up meanwhile is like a stream that broke.

        Raises:
            NotFound: The node is not registered with this boot id.
        """
        async with self._opened(node_id, boot_id) as stream:
            try:
                async with asyncio.timeout(wait_s):
                    offers = [await stream.get()]
            except TimeoutError:
                return []  # the protocol's way to say that there is no work
            while len(offers) < most and (offer := stream.get_nowait()):
                offers.append(offer)
            return offers

    async def offer(self, grants: Sequence[Grant]) -> None:
        """Send fresh grants to their nodes; those whose stream is elsewhere are announced."""
        here = [g for g in grants if g.node_id in self._streams]
        elsewhere = {g.node_id for g in grants} - {g.node_id for g in here}
        if here:
            await self._send([g.run_id for g in here], None)
        for node_id in elsewhere:
            await fetch_all(self._pool, _QUERIES.announce, node_id=node_id)

    async def offer_pending(self, node_id: NodeId) -> None:
        """Send what a node was granted and has not acknowledged, if its stream is here."""
        if node_id in self._streams:
            await self._send([], node_id)

    async def offer_unanswered(self) -> int:
        """Send the grants to nodes whose stream is here that nobody sent; return how many.

        The replica that granted them died or lost Postgres before it could say so.
        """
        self._forget_unanswered()
        if not self._streams:
            return 0
        rows = await fetch_all(
            self._pool, _QUERIES.unanswered, node_ids=[*self._streams], older_s=_UNANSWERED_S
        )
        lost = [row["run_id"] for row in rows if self._is_unsent(row)]
        if lost:
            await self._send(lost, None)
        return len(lost)

    def closing(self) -> None:
        """Take it that streams which end from now on are ended by us; their nodes live."""
        self._closing = True

    async def listen(self, notifications: Notifications) -> None:
        """Offer what other replicas granted to nodes whose stream is here, until cancelled.

        And tell them whose stream broke.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._note_broken())
            tasks.create_task(self._offer_on_wakeups(notifications))

    async def acknowledge(self, run_id: RunId, epoch: int) -> None:
        """Turn an offer into a lease.

        Raises:
            StaleLease: The offer is over; the node must not start.
        """
        await self._acknowledgements.submit((run_id, epoch))
        offered = self._answered(run_id, epoch)
        if offered:
            attributes = {"bpa.run.id": run_id, "bpa.node.id": offered.stream.node_id}
            self._tracing.record("lease", offered.traceparent, offered.since_ns, attributes)

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
            self._answered(RunId(row["run_id"]), row["epoch"])
            self._tell(row)

    async def aclose(self) -> None:
        """Write down what was submitted."""
        await self._acknowledgements.aclose()

    async def _note_broken(self) -> None:
        while True:
            stream = await self._broken.get()
            values = {"node_id": stream.node_id, "stream": stream.stream_id}
            try:
                await fetch_all(self._pool, _QUERIES.end_stream, **values)
            except Unavailable as error:  # then its heartbeats decide
                _log.warning("stream_end_not_noted", node_id=stream.node_id, error=str(error))

    async def _offer_on_wakeups(self, notifications: Notifications) -> None:
        with notifications.subscribe("offers") as subscription:
            async for wakeup in subscription:
                nodes = wakeup.payloads if wakeup.complete else list(self._streams)
                for node_id in nodes:
                    try:
                        await self.offer_pending(NodeId(node_id))
                    except Unavailable as error:
                        _log.warning("offers_wait", node_id=node_id, error=str(error))

    @asynccontextmanager
    async def _opened(self, node_id: NodeId, boot_id: str) -> AsyncIterator[NodeStream]:
        """Open a stream; one that its node breaks off is noted for all replicas."""
        stream = NodeStream(node_id, boot_id)
        values = {"node_id": node_id, "boot_id": boot_id, "stream": stream.stream_id}
        try:
            if not await fetch_all(self._pool, _QUERIES.open_stream, **values):
                raise NotFound(f"node {node_id!r} is not registered with this boot id; register")
            self._streams[node_id] = stream
            await self.offer_pending(node_id)
            yield stream
        except (asyncio.CancelledError, GeneratorExit):
            if not self._closing:
                self._broken.put_nowait(stream)
            raise
        finally:
            if self._streams.get(node_id) is stream:
                del self._streams[node_id]

    def _is_unsent(self, row: Mapping[str, Any]) -> bool:
        stream = self._streams.get(row["node_id"])
        return stream is not None and not stream.has_had(row["run_id"], row["epoch"])

    def _answered(self, run_id: RunId, epoch: int) -> Offered | None:
        offered = self._offered.pop((run_id, epoch), None)
        if offered:
            offered.stream.forget(run_id, epoch)
        return offered

    async def _send(self, run_ids: list[RunId], node_id: NodeId | None) -> None:
        rows = await self._writes.fetch_all(_QUERIES.pending, run_ids=run_ids, node_id=node_id)
        journals = await self._journals([row["run_id"] for row in rows if row["has_journal"]])
        for row in rows:
            stream = self._streams.get(row["node_id"])
            if stream is None or stream.boot_id != row["boot_id"]:
                continue
            if stream.put(offer_of(row, journals.get(row["run_id"], []), self.ttl_s)):
                self._note_offer(row, stream)

    def _note_offer(self, row: Mapping[str, Any], stream: NodeStream) -> None:
        key = (RunId(row["run_id"]), row["epoch"])
        if before := self._offered.get(key):  # offered again: its stream broke, or it polls
            self._offered[key] = dataclasses.replace(before, stream=stream)
            return
        since_ns = round(row["waiting_since"].timestamp() * 1e9)
        attributes = {"bpa.run.id": row["run_id"], "bpa.node.id": row["node_id"]}
        self._tracing.record("plan", row["traceparent"], since_ns, attributes)
        self._offered[key] = Offered(stream, row["traceparent"], self._tracing.now_ns())
        self._forget_unanswered()
        if row["executions"] == 0:
            labels = (row["agent_id"], row["version"], row["dep_id"])
            self._metrics.runs_started.labels(*labels).inc()

    def _forget_unanswered(self) -> None:
        """Forget the oldest offers that ended elsewhere: no answer to them comes here."""
        over_ns = self._tracing.now_ns() - round(2 * self.ttl_s * 1e9)
        for key, offered in [*itertools.islice(self._offered.items(), 2)]:
            if offered.since_ns < over_ns:
                self._answered(*key)

    async def _journals(self, run_ids: list[str]) -> Mapping[str, list[Step]]:
        journals: dict[str, list[Step]] = defaultdict(list)
        if run_ids:
            for row in await fetch_all(self._pool, _QUERIES.journals, run_ids=run_ids):
                journals[row["run_id"]].append(step_of(row))
        return journals

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
            self._answered(one.run_id, one.epoch)
        for row in moved:
            _log.warning(
                "lease_ended",
                run_id=row["run_id"],
                trace_id=row["trace_id"],
                node_id=row["node_id"],
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
