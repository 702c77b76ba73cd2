"""Replays of dead letters in Postgres: which run a message belongs to, and what a replay came to.

A replay chooses its run's id and commits it before it sends, so that a replay that is killed
midway and repeated yields two messages but one run. A message says which id it carries; that is
believed only where a row says the same of this queue and these bytes. Anything else in a message's
properties is for people.
"""

from __future__ import annotations

import hashlib
import secrets
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bpa.connectors import Message
from bpa.control.batches import jsonb
from bpa.control.replay_plan import Identity
from bpa.domain.runs import RunId, effect_key_of, run_id_of
from bpa.postgres import Pool, fetch_all, fetch_one, load_queries

RUN_ID_PROPERTY = "x-replay-run-id"
"""Where a replay's message carries its run's id."""

_QUERIES = load_queries(__file__)

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewReplay:
    """A replay to be written down."""

    run_id: RunId
    replayed_run_id: RunId
    original_run_id: RunId
    replay_number: int
    queue: str
    sequence_number: int
    message_id: str
    """Of the original message."""
    reason: str
    """Why the replayed message was dead-lettered."""
    edited: bool
    body_sha256: bytes
    effect_key: str | None
    requested_by: str


class Replays:
    """The rows of replays.

    Args:
        pool: Connections to Postgres.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def identify(
        self, messages: Sequence[Message], namespace: str, queue: str
    ) -> list[Identity]:
        """Return whose each message is (I2): a replay's that we know, else its own.

        Raises:
            Unavailable: Postgres is away, and a message claims to be a replay.
        """
        claims = [claimed_run_id(message) for message in messages]
        ids = [claim for claim in claims if claim is not None]
        rows = await fetch_all(self._pool, _QUERIES.claimed, run_ids=ids) if ids else []
        known = {row["run_id"]: row for row in rows}
        return [
            _replayed(known.get(claim or ""), message, queue) or _own(message, namespace, queue)
            for claim, message in zip(claims, messages, strict=True)
        ]

    async def known(self, run_ids: Sequence[RunId]) -> Sequence[Row]:
        """Return what is known of the runs of dead letters, a row for each, in order."""
        return await fetch_all(self._pool, _QUERIES.known, run_ids=list(run_ids))

    async def effects(self, run_id: RunId) -> Sequence[Row]:
        """Return what a run intended to send to its target, and when it was applied, in order."""
        return await fetch_all(self._pool, _QUERIES.effects, run_id=run_id)

    async def begin(self, replay: NewReplay) -> bool:
        """Write a replay down; False unless the run has ended and has no successor."""
        values = {name: getattr(replay, name) for name in replay.__slots__}
        return await fetch_one(self._pool, _QUERIES.begin, **values) is not None

    async def note(self, actor: str, action: str, subject: str, detail: Row) -> None:
        """Write down who did what."""
        await fetch_all(
            self._pool,
            _QUERIES.note,
            actor=actor,
            action=action,
            subject=subject,
            detail=jsonb(detail),
        )

    async def sent(self, run_id: RunId) -> None:
        """Note that the broker has confirmed the new message."""
        await fetch_all(self._pool, _QUERIES.sent, run_id=run_id)

    async def settled(self, run_id: RunId) -> None:
        """Note that the dead letter is gone."""
        await fetch_all(self._pool, _QUERIES.settled, run_id=run_id)


def claimed_run_id(message: Message) -> RunId | None:
    """Return the run id that a message says it carries, in canonical form; None for anything else.

    Nothing is believed of it yet.
    """
    try:
        return RunId(str(uuid.UUID(str(message.properties.get(RUN_ID_PROPERTY, "")))))
    except ValueError:
        return None


def new_run_id() -> RunId:
    """Return an id for a replay's run: a UUIDv8 of 48 bits of time in ms and 74 random bits.

    It sorts with the ids of :func:`bpa.domain.runs.run_id_of`, and nobody can guess it.
    """
    raw = bytearray((time.time_ns() // 1_000_000).to_bytes(6, "big") + secrets.token_bytes(10))
    raw[6] = raw[6] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    return RunId(str(uuid.UUID(bytes=bytes(raw))))


def _own(message: Message, namespace: str, queue: str) -> Identity:
    run_id = run_id_of(namespace, queue, message.sequence_number, message.enqueued_ms)
    return Identity(run_id, effect_key_of(run_id, message.sequence_number))


def _replayed(row: Row | None, message: Message, queue: str) -> Identity | None:
    if row is None or row["queue"].lower() != queue.lower():
        return None
    if row["body_sha256"] != hashlib.sha256(message.body).digest():
        return None
    run_id = RunId(row["run_id"])
    if row["edited"]:
        return Identity(run_id, effect_key_of(run_id, message.sequence_number))
    return Identity(run_id, row["effect_key"], RunId(row["inherits_from"]))
