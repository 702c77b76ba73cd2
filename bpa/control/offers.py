"""Offers: what a node was granted goes down its stream, and is remembered until it is answered.

The replica that holds a node's stream sends its offers: the others are told over the channel
``offers``. A stream that breaks is noted for all of them, for its node may be gone.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from msgspec.structs import replace

from bpa.control.steps import call_of
from bpa.domain.executions import Admission, LeaseOffer, RunSpec
from bpa.domain.journal import Step, StepKind, Usage
from bpa.domain.runs import NodeId, RunId
from bpa.domain.specs import AgentSpec, DeploymentSpec
from bpa.errors import NotFound, Unavailable
from bpa.postgres import Notifications, Pipeline, Pool, fetch_all, load_queries
from bpa.scheduler.commit import Grant
from bpa.telemetry.metrics import Metrics

_QUERIES = load_queries(__file__)
_UNANSWERED_S = 1.0
_log = structlog.stdlib.get_logger(__name__)


class NodeStream:
    """The offers on their way to one boot of one node."""

    def __init__(self, node_id: NodeId, boot_id: str) -> None:
        self.node_id = node_id
        self.boot_id = boot_id
        self.stream_id = str(uuid.uuid4())
        self._offers: asyncio.Queue[LeaseOffer] = asyncio.Queue()
        self._sent: set[tuple[str, int]] = set()

    def put(self, offer: LeaseOffer) -> bool:
        """Queue an offer, unless this stream has had it; say whether it was new."""
        key = (offer.run.run_id, offer.epoch)
        if key in self._sent:
            return False
        self._sent.add(key)
        self._offers.put_nowait(offer)
        return True

    def has_had(self, run_id: str, epoch: int) -> bool:
        """Say whether an offer went into this stream and was not answered yet."""
        return (run_id, epoch) in self._sent

    def forget(self, run_id: RunId, epoch: int) -> None:
        """Drop the memory of an offer that was answered."""
        self._sent.discard((run_id, epoch))

    async def get(self) -> LeaseOffer:
        """Wait for the next offer."""
        return await self._offers.get()

    def get_nowait(self) -> LeaseOffer | None:
        """Return the next offer if there is one."""
        return None if self._offers.empty() else self._offers.get_nowait()


@dataclass(frozen=True, slots=True)
class Offered:
    """An offer that waits for its answer."""

    stream: NodeStream
    since_s: float


class Offers:
    """The streams of nodes at this replica, and what goes down them.

    Args:
        pool: Connections to Postgres.
        writes: Shares round trips among what happens at the same time.
        ttl_s: How long a lease lasts from its acknowledgement.
        metrics: Counts the runs that were first leased.
    """

    def __init__(self, pool: Pool, writes: Pipeline, ttl_s: float, metrics: Metrics) -> None:
        self.ttl_s = ttl_s
        self._pool = pool
        self._writes = writes
        self._metrics = metrics
        self._streams: dict[NodeId, NodeStream] = {}
        self._offered: dict[tuple[RunId, int], Offered] = {}
        self._broken: asyncio.Queue[NodeStream] = asyncio.Queue()
        self._closing = False

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

    def forget(self, run_id: RunId, epoch: int) -> None:
        """Drop the memory of an offer that was answered or is over."""
        offered = self._offered.pop((run_id, epoch), None)
        if offered:
            offered.stream.forget(run_id, epoch)

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
        self._offered[key] = Offered(stream, time.monotonic())
        self._forget_unanswered()
        if row["epoch"] == 1:  # the first: whatever comes of it, the next is another
            labels = (row["agent_id"], row["version"], row["dep_id"])
            self._metrics.runs_started.labels(*labels).inc()
            self._metrics.queue_wait_s.observe(row["queued_s"])

    def _forget_unanswered(self) -> None:
        """Forget the oldest offers that ended elsewhere: no answer to them comes here."""
        over_s = time.monotonic() - 2 * self.ttl_s
        for key, offered in [*itertools.islice(self._offered.items(), 2)]:
            if offered.since_s < over_s:
                self.forget(*key)

    async def _journals(self, run_ids: list[str]) -> Mapping[str, list[Step]]:
        journals: dict[str, list[Step]] = defaultdict(list)
        if run_ids:
            for row in await fetch_all(self._pool, _QUERIES.journals, run_ids=run_ids):
                journals[row["run_id"]].append(step_of(row))
        return journals


def offer_of(row: Mapping[str, Any], journal: list[Step], ttl_s: float) -> LeaseOffer:
    """Return the offer of a granted lease, from the row that the query ``pending`` returns.

    Budgets and target are those of the revision that it was granted under. What the agent is told
    stays what it was when the message came, as its version does: its recorded answers would
    be none to other questions (docs/decisions/0020).
    """
    deployment = msgspec.convert(row["target"], DeploymentSpec)
    received = msgspec.convert(row["received_as"], DeploymentSpec)
    spec = RunSpec(
        run_id=row["run_id"],
        agent=msgspec.convert(row["spec"], AgentSpec),
        deployment_id=row["dep_id"],
        environment=row["env"],
        routes=received.routes,
        budgets=deployment.budgets,
        http_out=deployment.http_out,
        effect_key=row["effect_key"],
        max_effects=received.max_effects,
        input_schema=received.input_schema,
        document=row["document"],
        execution=row["executions"] + 1,
        worked_s=row["worked_s"],
        journal=journal,
        admission=msgspec.convert(row["admission"], Admission),
    )
    return LeaseOffer(
        run=spec,
        epoch=row["epoch"],
        ttl_s=ttl_s,
        deadline_s=max(0.0, deployment.budgets.max_duration_s - row["worked_s"]),
        traceparent=row["traceparent"],
        tracestate=row["tracestate"],
    )


def step_of(row: Mapping[str, Any]) -> Step:
    """Return a step of a journal from its row."""
    step = Step(
        seq=row["seq"],
        kind=StepKind(row["kind"]),
        digest=row["digest"],
        intent=row["intent"] or b"",
        effect_key=row["effect_key"] or "",
        reserved_tokens=row["reserved_tokens"],
        call=call_of(row),
        answer=row["answer"],
        ended_at_ms=row["ended_at_ms"],
        inherited=row["inherited"],
    )
    return replace(step, usage=msgspec.convert(row["usage"], Usage)) if row["usage"] else step
