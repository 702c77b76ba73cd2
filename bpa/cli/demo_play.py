"""The demonstration itself: script the target, send, watch, and gather what was seen."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from bpa.cli.api import Api
from bpa.cli.demo_target import TargetControl
from bpa.connectors import OutgoingMessage
from bpa.connectors.service_bus import DeadLetterReader, ServiceBusPublisher
from bpa.connectors.service_bus.client import SOCKET_POLL_S, close, connect, opened
from bpa.control.rest.deployment_schemas import Deployment
from bpa.control.rest.run_schemas import Run, RunPage, RunSummary, Total
from bpa.demo.account import discrepancies
from bpa.demo.documents import Expectation
from bpa.demo.seen import Seen, SeenDeadLetter, SeenInvoice, SeenRun, SeenTotal
from bpa.errors import NotFound, Unavailable

QUEUE = "invoices"
_BATCH = 10
_LOOK_EVERY_S = 0.25
_SETTLED_WITHIN_S = 10.0
"""How long after the last run's end its message may take to be settled and noted."""
_ACCOUNT_WITHIN_S = 60.0
_AT_ONCE = 8
_PEEKED_AT_ONCE = 1000
_NOT_OURS = "?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far it has come."""

    documents: int
    sent: int = 0
    statuses: Mapping[str, int] = field(default_factory=dict)
    waiting_for: str = ""
    """Why a run waits, if one does."""

    @property
    def ended(self) -> int:
        """Completed and dead-lettered runs."""
        return self.statuses.get("completed", 0) + self.statuses.get("dead_lettered", 0)


@dataclass(slots=True)
class Play:
    """One demonstration on a running server.

    Args:
        expected: The documents, in the order of sending.
        folder: Where they are.
        api: Control's.
        target: The target API's.
        service_bus: Connection string of the namespace.
        is_alone: Whatever happens on this server is the demonstration's own doing.
        show: Is told of progress.
    """

    expected: Sequence[Expectation]
    folder: Path
    api: Api
    target: TargetControl
    service_bus: str
    is_alone: bool
    show: Callable[[Progress], None]
    _names: dict[str, str] = field(default_factory=dict)
    """Trace id to document: each message starts a trace, which its run goes on with."""
    _applied_before: int = 0
    _since: datetime | None = None

    async def run(self, deadline_s: float) -> tuple[Seen, list[str], float]:
        """Send the documents, wait for their ends until ``deadline_s`` of the loop's clock.

        Returns:
            What was seen, a line for each discrepancy, and the seconds from the first message
            sent to the last run seen to have ended.

        Raises:
            NotFound: No deployment feeds from the queue.
            Unavailable: Control, the queue or the target does not answer.
        """
        await self._look_for_deployment()
        self._applied_before = await self.target.count()
        loop = asyncio.get_running_loop()
        async with self.target.failing():
            begun_s = loop.time()
            async with _in_time(deadline_s, "the queue did not take all messages in time"):
                await self._send()
            await self._watch(deadline_s)
            took_s = loop.time() - begun_s
            until_s = loop.time() + _ACCOUNT_WITHIN_S
            async with _in_time(until_s, "queue, control and target did not tell in time"):
                return *await self._account(), took_s

    async def _look_for_deployment(self) -> None:
        deployments = await self.api.get("/v1/deployments", list[Deployment])
        if not any(deployment.queue == QUEUE for deployment in deployments):
            raise NotFound(
                f"no deployment feeds from the queue {QUEUE!r}; the shipped one is of environment "
                "'dev': unset `environment`, or `bpa apply` a deployment for yours"
            )

    async def _send(self) -> None:
        self._since = datetime.now(UTC) - timedelta(seconds=5)
        async with ServiceBusPublisher(self.service_bus, QUEUE) as publisher:
            for start in range(0, len(self.expected), _BATCH):
                batch = self.expected[start : start + _BATCH]
                await publisher.send([self._message(one) for one in batch])
                self.show(Progress(documents=len(self.expected), sent=start + len(batch)))

    def _message(self, one: Expectation) -> OutgoingMessage:
        trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
        self._names[trace_id] = one.name
        return OutgoingMessage(
            body=(self.folder / one.file).read_bytes(),
            content_type=one.content_type,
            message_id=one.name,
            traceparent=f"00-{trace_id}-{span_id}-01",
        )

    async def _watch(self, deadline_s: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            runs = [run for run in await self._listed() if run.trace_id in self._names]
            waiting = [run.waiting_reason for run in runs if run.waiting_reason]
            progress = Progress(
                documents=len(self.expected),
                sent=len(self.expected),
                statuses=Counter(run.status for run in runs),
                waiting_for=waiting[0] if waiting else "",
            )
            self.show(progress)
            if progress.ended >= len(self.expected) or loop.time() >= deadline_s:
                return
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _listed(self) -> list[RunSummary]:
        """Return the runs since the start, and perhaps a few older ones."""
        listed: list[RunSummary] = []
        cursor: str | None = None
        while True:
            page = await self.api.get("/v1/runs", RunPage, limit=500, cursor=cursor)
            listed += page.runs
            cursor = page.next_cursor
            oldest = listed[-1].created_at if listed else None
            if cursor is None or (self._since and oldest and oldest < self._since):
                return listed

    async def _account(self) -> tuple[Seen, list[str]]:
        """Gather until the account balances, or for as long as settling may take."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + _SETTLED_WITHIN_S
        while True:
            seen = await self._seen()
            found = discrepancies(self.expected, seen)
            unfinished = any(not run.has_ended for run in seen.runs)
            if not found or unfinished or loop.time() > until_s:
                return seen, found
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _seen(self) -> Seen:
        turn = asyncio.Semaphore(_AT_ONCE)

        async def whole(run_id: str) -> SeenRun:
            async with turn:
                run = await self.api.get(f"/v1/runs/{run_id}", Run)
            return _seen_run(run, self._names.get(run.trace_id, _NOT_OURS))

        listed = await self._listed()
        ours = [run.run_id for run in listed if self.is_alone or run.trace_id in self._names]
        runs = await asyncio.gather(*(whole(run_id) for run_id in ours))
        letters, left = await asyncio.gather(self._dead_letters(), self._left())
        received = await self.target.received(self._applied_before)
        ids = set(ours)
        return Seen(
            runs=tuple(runs),
            received=tuple(one for one in received if self._is_ours(one, ids)),
            dead_letters=tuple(letters),
            left_in_queue=tuple(left),
            totals=await self._totals() if self.is_alone else None,
        )

    def _is_ours(self, invoice: SeenInvoice, run_ids: set[str]) -> bool:
        run_id = invoice.key.partition(":")[0]
        return self.is_alone or run_id in run_ids or invoice.body.get("run_id") in run_ids

    async def _dead_letters(self) -> list[SeenDeadLetter]:
        async with aclosing(DeadLetterReader(self.service_bus, QUEUE).pages()) as pages:
            letters = [letter async for page in pages for letter in page]
        return [
            SeenDeadLetter(file=file, reason=letter.reason, description=letter.description)
            for letter in letters
            if (file := self._name_of(letter.message.traceparent, letter.message.message_id))
        ]

    async def _left(self) -> list[str]:
        """Return what is still in the queue, locked or not."""
        receiver = connect(self.service_bus).get_queue_receiver(QUEUE, socket_timeout=SOCKET_POLL_S)
        held = await opened(receiver, f"queue {QUEUE!r}")
        messages: list[Any] = []
        following = 1
        try:
            while page := await receiver.peek_messages(_PEEKED_AT_ONCE, sequence_number=following):
                messages += page  # as many as fit into one answer
                following = (page[-1].sequence_number or 0) + 1
        finally:
            await close(held)
        names = []
        for message in messages:
            properties = message.application_properties or {}
            header = properties.get("traceparent", properties.get(b"traceparent"))
            traceparent = header.decode() if isinstance(header, bytes) else str(header)
            names.append(self._name_of(traceparent, message.message_id))
        return [name for name in names if name]

    def _name_of(self, traceparent: str | None, message_id: str | None) -> str:
        """Return the document that a message is about; empty when it is none of our business."""
        trace_id = (traceparent or "").partition("-")[2][:32]
        if trace_id in self._names:
            return self._names[trace_id]
        return f"message {message_id}" if self.is_alone else ""

    async def _totals(self) -> tuple[SeenTotal, ...]:
        return tuple(
            SeenTotal(
                status=total.status,
                reason=total.reason or "",
                runs=total.runs,
                tokens_in=total.tokens_in,
                tokens_out=total.tokens_out,
                cost_usd=Decimal(total.cost_usd),
            )
            for total in await self.api.get("/v1/totals", list[Total])
        )


@asynccontextmanager
async def _in_time(deadline_s: float, otherwise: str) -> AsyncIterator[None]:
    """Raise ``Unavailable`` when the work takes longer than the loop's clock allows."""
    try:
        async with asyncio.timeout_at(deadline_s):
            yield
    except TimeoutError as error:
        raise Unavailable(otherwise) from error


def _seen_run(run: Run, file: str) -> SeenRun:
    latency = max(run.ended_at - run.enqueued_at, timedelta(0)) if run.ended_at else None
    return SeenRun(
        run_id=run.run_id,
        file=file,
        status=run.status,
        reason=run.reason or "",
        detail=run.detail or "",
        waiting_reason=run.waiting_reason or "",
        sequence_number=int(run.input_ref.get("sequence_number", 0)),
        dispositions=tuple(delivery.disposition or "" for delivery in run.deliveries),
        tokens_in=int(run.costs.get("tokens_in", 0)),
        tokens_out=int(run.costs.get("tokens_out", 0)),
        cost_usd=Decimal(run.cost_usd),
        latency_ms=latency / timedelta(milliseconds=1) if latency is not None else None,
    )
