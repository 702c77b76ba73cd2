"""The sweep: what the broker dead-lettered by itself becomes the end of its run (I1).

A message whose deliveries or time ran out is moved to the dead-letter queue without a word to us.
The sweep goes through the dead letters; a run that still lives is ended under its epoch, so that
whoever works on it is fenced before its next effect, and a message that never became a run is
recorded as one. A run that completed before its message was moved stays so: a replay of such a dead
letter only settles.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from bpa.connectors.service_bus import DeadLetter
from bpa.control.dead_letters import Reader
from bpa.control.deployments import Deployments, Feeding
from bpa.control.replay_plan import Identity
from bpa.control.replays import Replays
from bpa.control.runs import Arrival, Runs
from bpa.documents.characters import excerpt, one_line
from bpa.domain import RunId
from bpa.errors import BpaError, BrokerReason, Reason
from bpa.postgres import Pool, fetch_all, load_queries
from bpa.telemetry import Tracing

_QUERIES = load_queries(__file__)
_DETAIL_CHARS_MAX = 2_000
_NAMED = {reason.value: reason for kind in (Reason, BrokerReason) for reason in kind}

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Swept:
    """What one pass came to."""

    ended: int = 0
    """Runs that lived."""
    recorded: int = 0
    """Messages that never became a run, and are one now."""

    def __add__(self, other: Swept) -> Swept:
        return Swept(self.ended + other.ended, self.recorded + other.recorded)


class Sweep:
    """Goes through the dead letters of the queues that are fed from; replicas take turns.

    Args:
        environment: Whose deployments.
        namespace: The namespace's name, a part of every run id.
        deployments: Which queues are fed from.
        replays: Whose each message is.
        runs: Where runs are ended and recorded.
        pool: Connections to Postgres.
        tracing: Gives a recorded message its trace.
        reader: Builds the reader of a queue's dead letters.
        every_s: Seconds between two passes over one queue, whoever makes them.
    """

    def __init__(
        self,
        environment: str,
        namespace: str,
        deployments: Deployments,
        replays: Replays,
        runs: Runs,
        pool: Pool,
        tracing: Tracing,
        reader: Callable[[str], Reader],
        every_s: float,
    ) -> None:
        self._environment = environment
        self._namespace = namespace
        self._deployments = deployments
        self._replays = replays
        self._runs = runs
        self._pool = pool
        self._tracing = tracing
        self._reader = reader
        self._every_s = every_s

    async def run(self) -> None:
        """Sweep until cancelled; an outage of Postgres is waited out."""
        while True:
            try:
                await self.one_pass()
            except BpaError as error:
                _log.warning("sweep_waits", code=error.code, error=str(error))
            await asyncio.sleep(self._every_s * (0.5 + random.random()))  # noqa: S311 - jitter

    async def one_pass(self) -> Swept:
        """Go through every queue whose turn it is; one that is out of reach keeps no other waiting.

        Raises:
            Unavailable: Postgres is away.
        """
        total = Swept()
        for feeding in (await self._deployments.feeding(self._environment)).values():
            claimed = await fetch_all(
                self._pool, _QUERIES.claim, queue=feeding.queue, every_s=self._every_s / 2
            )
            if not claimed:
                continue
            try:
                async with aclosing(self._reader(feeding.queue).pages()) as pages:
                    async for page in pages:
                        total += await self._sweep(page, feeding)
            except BpaError as error:
                _log.warning(
                    "sweep_cut_short", queue=feeding.queue, code=error.code, error=str(error)
                )
        return total

    async def _sweep(self, page: Sequence[DeadLetter], feeding: Feeding) -> Swept:
        messages = [letter.message for letter in page]
        identities = await self._replays.identify(messages, self._namespace, feeding.queue)
        letters = {one.run_id: (one, letter) for one, letter in zip(identities, page, strict=True)}
        rows = await fetch_all(self._pool, _QUERIES.unended, run_ids=list(letters))
        alive = [RunId(row["run_id"]) for row in rows if row["status"]]
        unknown = [RunId(row["run_id"]) for row in rows if not row["status"]]
        ended = 0
        if alive:
            ended = await self._runs.bury([(one, *_why(letters[one][1])) for one in alive])
        for one in unknown:
            await self._record(*letters[one], feeding)
        await fetch_all(
            self._pool,
            _QUERIES.end_deliveries,
            run_ids=[one.run_id for one in identities],
            numbers=[message.sequence_number for message in messages],
        )
        if rows:
            _log.warning(
                "dead_letters_swept", queue=feeding.queue, ended=ended, recorded=len(unknown)
            )
        return Swept(ended, len(unknown))

    async def _record(self, identity: Identity, letter: DeadLetter, feeding: Feeding) -> None:
        """Record a message that the broker took before it became a run."""
        message = letter.message
        reason, detail = _why(letter)
        attributes = {"bpa.run.id": identity.run_id, "bpa.deployment.id": feeding.dep_id}
        traceparent, trace_id = self._tracing.record(
            "receive", message.traceparent or "", self._tracing.now_ns(), attributes
        )
        arrival = Arrival(
            run_id=identity.run_id,
            agent_id=feeding.agent_id,
            version=feeding.version,
            dep_id=feeding.dep_id,
            input_ref={
                "namespace": self._namespace,
                "queue": feeding.queue,
                "sequence_number": message.sequence_number,
                "enqueued_ms": message.enqueued_ms,
                "message_id": message.message_id and message.message_id.replace("\0", ""),
                "bytes": len(message.body),
                "excerpt": excerpt(message.body),
            },
            document=b"",
            body_sha256=hashlib.sha256(message.body).digest(),
            trace_id=trace_id,
            traceparent=traceparent,
            tracestate=message.tracestate or "",
            enqueued_at=message.enqueued_at,
            effect_key=identity.effect_key,
            delivery_count=message.delivery_count,
            reason=reason,
            detail=detail,
            inherits_from=identity.inherits_from,
        )
        await self._runs.receive(arrival)


def _why(letter: DeadLetter) -> tuple[Reason | BrokerReason, str]:
    """Return why a message lies in the dead-letter queue; a stranger's reason is only quoted."""
    said = one_line(f"{letter.reason}: {letter.description}".strip(": "))[:_DETAIL_CHARS_MAX]
    reason = _NAMED.get(letter.reason, BrokerReason.ELSEWHERE)
    return reason, f"the message was dead-lettered without the platform: {said or 'no reason'}"
