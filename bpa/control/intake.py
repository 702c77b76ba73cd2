"""Intake: one message becomes one run, or joins the run it already has (I2)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from bpa.connectors import Message, Source
from bpa.control.arrivals import Arrival
from bpa.control.deployments import Feeding
from bpa.control.message_properties import kept_of
from bpa.control.replay_plan import Identity
from bpa.control.replays import Replays, claimed_run_id
from bpa.control.runs import Received, Runs
from bpa.control.settlement import Held, Settlement
from bpa.documents.characters import excerpt
from bpa.documents.decoding import decode
from bpa.documents.schema_checks import SchemaCheck
from bpa.documents.values import Document
from bpa.documents.wire import to_wire
from bpa.domain.runs import DeploymentId
from bpa.errors import BpaError, Reason, RunEnded
from bpa.telemetry.spans import fields_of, received

_log = structlog.stdlib.get_logger(__name__)
_COMES_AGAIN = "nothing is lost: it is given back, and comes again"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where messages come from and what works on them."""

    namespace: str
    """The namespace's name, a part of every run id."""
    feeding: Feeding
    source: Source
    schema: SchemaCheck | None
    """What the deployment demands of a document, if anything."""


class Intake:
    """Records messages.

    Args:
        runs: Where runs are recorded.
        replays: Which of them go on from another run.
        settlement: Keeps the message's lock until its run ends.
        waiting: Called with the deployment of a run that waits for a place.
    """

    def __init__(
        self,
        runs: Runs,
        replays: Replays,
        settlement: Settlement,
        waiting: Callable[[DeploymentId], None],
    ) -> None:
        self._runs = runs
        self._replays = replays
        self._settlement = settlement
        self._waiting = waiting

    async def accept(self, message: Message, origin: Origin) -> Received | None:
        """Record one message and hand it to settlement.

        Returns:
            What it became; None if it could not be recorded, and is the caller's to give back:
            nothing is settled without a commit.
        """
        queue, received_at = origin.feeding.queue, datetime.now(UTC)
        try:
            (identity,) = await self._replays.identify([message], origin.namespace, queue)
        except BpaError as error:
            _log.warning(
                "message_not_identified",
                queue=queue,
                sequence_number=message.sequence_number,
                code=error.code,
                error=str(error),
                effect=_COMES_AGAIN,
            )
            return None
        run_id = identity.run_id
        arrival = arrival_of(identity, message, origin, received_at)
        log = _log.bind(
            **fields_of(run_id, arrival.trace_id, "receive"),
            queue=queue,
            sequence_number=message.sequence_number,
        )
        if claimed_run_id(message) not in (None, run_id):
            log.warning(
                "replay_not_known",
                claimed_run_id=claimed_run_id(message),
                effect="it is a run of its own, under a key of its own",
            )
        try:
            recorded = await self._runs.receive(arrival)
        except BpaError as error:  # whatever is wrong, it is this message's business alone
            log.warning(
                "message_not_recorded", code=error.code, error=str(error), effect=_COMES_AGAIN
            )
            return None
        log.info("message_received", joined=not recorded.is_new, reason=arrival.reason)
        held = Held(run_id, recorded.delivery_id, origin.source, message, arrival.trace_id, queue)
        if recorded.verdict is not None:
            await self._settlement.settle(held, recorded.verdict)
            return recorded
        self._settlement.hold(held)
        self._waiting(origin.feeding.dep_id)
        return recorded


def arrival_of(
    identity: Identity, message: Message, origin: Origin, received_at: datetime
) -> Arrival:
    """Decode a message; one that cannot be worked on arrives with the reason why."""
    document = b""
    ended: RunEnded | None = None
    note: dict[str, str] = {}
    try:
        if message.undecodable:
            raise RunEnded(Reason.DESERIALIZATION_ERROR, message.undecodable)
        decoded = decode(message.body, message.content_type)
        if origin.schema:
            origin.schema.check(decoded, message.body, message.content_type)
        document, note = to_wire(decoded), {"dialect": decoded.dialect, **_known_as(decoded)}
    except RunEnded as error:
        ended, note = error, {"excerpt": excerpt(message.body)}
    feeding = origin.feeding
    span = received(identity.run_id, message.traceparent or "")
    return Arrival(
        run_id=identity.run_id,
        agent_id=feeding.agent_id,
        version=feeding.version,
        dep_id=feeding.dep_id,
        revision=feeding.revision,
        input_ref={
            "namespace": origin.namespace,
            "queue": feeding.queue,
            "sequence_number": message.sequence_number,
            "enqueued_ms": message.enqueued_ms,
            "message_id": message.message_id and message.message_id.replace("\0", ""),
            "bytes": len(message.body),
            **note,
        },
        document=document,
        message=kept_of(message),
        body_sha256=hashlib.sha256(message.body).digest(),
        trace_id=span.trace_id,
        traceparent=str(span),
        sender=message.traceparent or "",
        received_at=received_at,
        tracestate=message.tracestate or "",
        enqueued_at=message.enqueued_at,
        effect_key=identity.effect_key,
        delivery_count=message.delivery_count,
        reason=ended.reason if ended else None,
        detail=ended.detail if ended else None,
        inherits_from=identity.inherits_from,
    )


def _known_as(document: Document) -> dict[str, str]:
    """Return by what people know an invoice, where code can read it: runs are found by it."""
    fields = document.fields
    if fields is None:
        return {}
    vendor = {"vendor": fields.vendor} if fields.vendor else {}
    return {"invoice_id": fields.invoice_id, **vendor}
