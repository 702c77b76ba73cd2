"""What the broker buried: noted message by message, and the end of a run with its last message.

A run has one message, or several where its replay was sent twice. A dead letter is noted as the end
of the delivery that it was; the run that it belonged to ends when every message of it that we know
of is a dead letter. A copy that nobody has received yet is not known: it joins the run that ended
without it, and becomes a dead letter too.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from bpa.connectors.service_bus import DeadLetter
from bpa.control.arrivals import Arrival
from bpa.control.deployments import Deployments
from bpa.control.message_properties import kept_of
from bpa.control.replay_plan import Identity
from bpa.control.runs import Runs
from bpa.documents.characters import excerpt, one_line
from bpa.domain.runs import RunId
from bpa.errors import BrokerReason, NotFound, Reason
from bpa.postgres import Pool, fetch_all, load_queries
from bpa.telemetry.spans import received

_QUERIES = load_queries(__file__)
_DETAIL_CHARS_MAX = 2_000
_NAMED = {reason.value: reason for kind in (Reason, BrokerReason) for reason in kind}

Buried = tuple[Identity, DeadLetter]
"""A dead letter, and whose it is."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What was found among dead letters."""

    ended: int = 0
    """Runs that lived."""
    recorded: int = 0
    """Messages that never became a run, and are one now."""

    def __add__(self, other: Swept) -> Swept:
        return Swept(self.ended + other.ended, self.recorded + other.recorded)


class Burials:
    """Brings what is known of runs up to what lies in the dead-letter queues.

    Args:
        environment: Whose deployments.
        namespace: The namespace's name, a part of every run's input.
        deployments: Which of them feeds from a queue.
        runs: Where runs are ended and recorded.
        pool: Connections to Postgres.
    """

    def __init__(
        self,
        environment: str,
        namespace: str,
        deployments: Deployments,
        runs: Runs,
        pool: Pool,
    ) -> None:
        self._environment = environment
        self._namespace = namespace
        self._deployments = deployments
        self._runs = runs
        self._pool = pool

    async def heed(self, letters: Sequence[Buried], queue: str) -> Swept:
        """Note dead letters of a queue, end the runs that have no other message, record the rest.

        Raises:
            NotFound: No deployment feeds from the queue.
            Unavailable: Postgres is away.
        """
        unended = await self._note(letters)
        alive = {identity.run_id: letter for identity, letter in letters}
        alive = {run_id: letter for run_id, letter in alive.items() if unended.get(run_id)}
        ended = 0
        if alive:  # noted first: the last message of a run is one that is dead as well
            ended = await self._runs.bury([(one, *_why(letter)) for one, letter in alive.items()])
        unknown = [one for one in letters if unended.get(one[0].run_id, "known") is None]
        return Swept(ended, await self.record(unknown, queue))

    async def record(self, letters: Sequence[Buried], queue: str) -> int:
        """Record messages that the broker took before they became runs; return how many.

        Afterwards no message can begin the run of one of them any more: what comes late joins it.
        Raises as :meth:`heed`.
        """
        unknown = {identity.run_id: (identity, letter) for identity, letter in reversed(letters)}
        if not unknown:
            return 0
        rows = await self._deployments.page(self._environment)
        feeding = [row for row in rows if row["queue"] == queue]
        if not feeding:
            raise NotFound(f"no deployment feeds from queue {queue!r}")
        deployment = max(feeding, key=lambda row: bool(row["status"]["active"]))
        arrivals = [self._arrival(*one, queue, deployment) for one in unknown.values()]
        recorded = await asyncio.gather(*map(self._runs.receive, arrivals))
        await self._note(letters)
        return sum(one.is_new for one in recorded)

    async def _note(self, letters: Sequence[Buried]) -> dict[RunId, str | None]:
        """Note what is a dead letter; return the status of the runs that have not ended.

        None stands for a run that never was.
        """
        rows = await fetch_all(
            self._pool,
            _QUERIES.note,
            run_ids=[identity.run_id for identity, _ in letters],
            numbers=[letter.message.sequence_number for _, letter in letters],
            counts=[letter.message.delivery_count for _, letter in letters],
        )
        return {RunId(row["run_id"]): row["status"] for row in rows}

    def _arrival(
        self, identity: Identity, letter: DeadLetter, queue: str, deployment: dict[str, str]
    ) -> Arrival:
        message = letter.message
        reason, detail = _why(letter)
        span = received(identity.run_id, message.traceparent or "")
        return Arrival(
            run_id=identity.run_id,
            agent_id=deployment["agent_id"],
            version=deployment["version"],
            dep_id=deployment["dep_id"],
            input_ref={
                "namespace": self._namespace,
                "queue": queue,
                "sequence_number": message.sequence_number,
                "enqueued_ms": message.enqueued_ms,
                "message_id": message.message_id and message.message_id.replace("\0", ""),
                "bytes": len(message.body),
                "excerpt": excerpt(message.body),
            },
            document=b"",
            message=kept_of(message),
            body_sha256=hashlib.sha256(message.body).digest(),
            trace_id=span.trace_id,
            traceparent=str(span),
            sender=message.traceparent or "",
            tracestate=message.tracestate or "",
            enqueued_at=message.enqueued_at,
            effect_key=identity.effect_key,
            delivery_count=message.delivery_count,
            reason=reason,
            detail=detail,
            inherits_from=identity.inherits_from,
        )


def _why(letter: DeadLetter) -> tuple[Reason | BrokerReason, str]:
    """Return why a message lies in the dead-letter queue; a stranger's reason is only quoted."""
    said = one_line(f"{letter.reason}: {letter.description}".strip(": "))[:_DETAIL_CHARS_MAX]
    reason = _NAMED.get(letter.reason, BrokerReason.ELSEWHERE)
    return reason, f"the message was dead-lettered without the platform: {said or 'no reason'}"
