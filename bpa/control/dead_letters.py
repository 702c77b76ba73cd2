"""Dead letters joined with their runs: listed, counted, shown."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import (
    AsyncGenerator,
    Callable,
    Collection,
    Iterable,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, Protocol

import structlog

from bpa.connectors import Message
from bpa.connectors.service_bus import DeadLetter
from bpa.control.deployments import Deployments
from bpa.control.message_properties import readable, shown
from bpa.control.replay_plan import Identity, LetterId, plan
from bpa.control.replays import Replays, Row
from bpa.documents.characters import excerpt
from bpa.errors import InvalidRequest, NotFound

SCANNED_AT_MOST = 5_000
"""Dead letters looked at for one page or one count: a filter may match few of them."""
_KEPT_BYTES_AT_MOST = 32 * 1024 * 1024

_log = structlog.stdlib.get_logger(__name__)


class Reader(Protocol):
    """What is read of one queue's dead letters."""

    async def find(self, sequence_numbers: Collection[int]) -> dict[int, DeadLetter]:
        """Return the dead letters of these numbers."""

    def pages(
        self, size: int = ..., from_sequence_number: int = ...
    ) -> AsyncGenerator[list[DeadLetter], None]:
        """Go through the dead letters, oldest first, a page at a time."""


@dataclass(frozen=True, slots=True)
class Found:
    """A dead letter, whose it is, and what is known of that run."""

    id: LetterId
    letter: DeadLetter
    identity: Identity
    known: Row

    @property
    def message(self) -> Message:
        """The message itself."""
        return self.letter.message

    def row(self) -> dict[str, Any]:
        """Return what a list shows."""
        known, message = self.known, self.message
        return {
            "id": str(self.id),
            "queue": self.id.queue,
            "sequence_number": self.id.sequence_number,
            "message_id": readable(message.message_id or ""),
            "reason": readable(self.letter.reason),
            "description": readable(self.letter.description),
            "run_id": self.identity.run_id,
            "run_status": known["status"],
            "deployment_id": known["dep_id"],
            "enqueued_at": message.enqueued_at,
            "dead_lettered_at": known["dead_lettered_at"] or known["ended_at"],
            "delivery_count": message.delivery_count,
            "replay_count": known["replay_number"] or 0,
            "original_run_id": known["original_run_id"] or self.identity.run_id,
            "effects": known["effects"],
            "effects_applied": known["effects_applied"],
            "half_replayed_as": known["next_run_id"],
            "bytes": len(message.body),
        }


class DeadLetters:
    """The dead letters of the queues that deployments of this environment feed from.

    Args:
        environment: Whose deployments.
        namespace: The namespace's name, a part of every run id.
        deployments: Which queues there are.
        replays: Whose the messages are.
        reader: Builds the reader of a queue.
    """

    def __init__(
        self,
        environment: str,
        namespace: str,
        deployments: Deployments,
        replays: Replays,
        reader: Callable[[str], Reader],
    ) -> None:
        self._environment = environment
        self._namespace = namespace
        self._deployments = deployments
        self._replays = replays
        self._reader = reader

    async def page(
        self,
        *,
        queue: str | None = None,
        reason: str | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Return a page of dead letters, queue by queue, oldest first, and the next one's cursor.

        A page may be short, even empty, and yet have a next one: no more than ``SCANNED_AT_MOST``
        letters are looked at for it.

        Raises:
            InvalidRequest: The cursor is none of ours.
            NotFound: No deployment feeds from that queue.
            Unavailable: The broker or Postgres does not answer.
        """
        after = _read_cursor(cursor) if cursor else None
        found: list[tuple[LetterId, DeadLetter]] = []
        scanned = kept_bytes = 0
        queues = await self._queues(queue)
        async with aclosing(self._letters(queues, after, strict=queue is not None)) as letters:
            async for at, letter in letters:
                scanned += 1
                if reason in (None, letter.reason):
                    found.append((at, letter))
                    kept_bytes += len(letter.encoded)
                if (
                    len(found) == limit
                    or scanned >= SCANNED_AT_MOST
                    or kept_bytes > _KEPT_BYTES_AT_MOST
                ):
                    return await self._rows(found), _cursor(at)
        return await self._rows(found), None

    async def totals(self, queue: str | None = None) -> list[dict[str, Any]]:
        """Count dead letters by queue and reason, with the first and the last enqueued.

        ``complete`` is false where a queue holds more than ``SCANNED_AT_MOST``: the counts are then
        of the oldest so many. Raises as :meth:`page`.
        """
        totals: list[dict[str, Any]] = []
        for name in await self._queues(queue):
            enqueued: dict[str, list[datetime]] = defaultdict(list)
            scanned = 0
            async with aclosing(self._letters([name], strict=queue is not None)) as letters:
                async for _, letter in letters:
                    if scanned == SCANNED_AT_MOST:
                        break
                    scanned += 1
                    enqueued[letter.reason].append(letter.message.enqueued_at)
                else:
                    scanned = 0
            totals += [
                {
                    "queue": name,
                    "reason": readable(reason),
                    "count": len(moments),
                    "first_enqueued_at": min(moments),
                    "last_enqueued_at": max(moments),
                    "complete": scanned == 0,
                }
                for reason, moments in sorted(enqueued.items())
            ]
        return totals

    async def get(self, letter_id: LetterId) -> dict[str, Any]:
        """Return one dead letter whole, with what a replay would do.

        Raises:
            NotFound: There is no such dead letter.
            Unavailable: The broker or Postgres does not answer.
        """
        found = (await self.find([letter_id])).get(letter_id)
        if found is None:
            raise _gone(letter_id)
        message = found.message
        planned = plan(message, found.identity, found.known, None)
        return {
            **found.row(),
            "content_type": readable(message.content_type or ""),
            "properties": shown(message.properties),
            "undecodable": message.undecodable,
            "excerpt": excerpt(message.body),
            "effect_key": planned.effect_key,
            "sent": list(await self._replays.effects(found.identity.run_id)),
            "replay": {"action": planned.action, "why": planned.why},
        }

    async def message(self, letter_id: LetterId) -> Message:
        """Return the message of one dead letter, with its body as it came.

        Raises:
            NotFound: There is no such dead letter.
            Unavailable: The broker does not answer.
        """
        await self._queues(letter_id.queue)
        letters = await self._reader(letter_id.queue).find([letter_id.sequence_number])
        if letter_id.sequence_number not in letters:
            raise _gone(letter_id)
        return letters[letter_id.sequence_number].message

    async def find(self, ids: Sequence[LetterId]) -> dict[LetterId, Found]:
        """Return those of these dead letters that are there.

        Raises:
            NotFound: No deployment feeds from a queue that is named.
            Unavailable: The broker or Postgres does not answer.
        """
        found: dict[LetterId, Found] = {}
        by_queue: dict[str, list[int]] = defaultdict(list)
        for one in ids:
            by_queue[one.queue].append(one.sequence_number)
        for queue, numbers in by_queue.items():
            await self._queues(queue)
            letters = await self._reader(queue).find(numbers)
            pairs = [(LetterId(queue, number), letter) for number, letter in letters.items()]
            found |= {one.id: one for one in await self._joined(pairs)}
        return found

    async def _queues(self, queue: str | None) -> list[str]:
        rows = await self._deployments.page(self._environment)
        queues = sorted({row["queue"] for row in rows})
        if queue is None:
            return queues
        if queue not in queues:
            known = ", ".join(queues) or "none"
            raise NotFound(f"no deployment feeds from a queue {queue[:300]!r}; there are: {known}")
        return [queue]

    async def _letters(
        self, queues: Iterable[str], after: LetterId | None = None, *, strict: bool
    ) -> AsyncGenerator[tuple[LetterId, DeadLetter], None]:
        """Go through queues; unless ``strict``, one that the broker does not have is passed over.

        A deployment may name a queue that is not created yet: it hides no other one's letters.
        """
        for name in queues:
            if after and name < after.queue:
                continue
            first = after.sequence_number + 1 if after and name == after.queue else 0
            try:
                async with aclosing(self._reader(name).pages(from_sequence_number=first)) as pages:
                    async for page in pages:
                        for letter in page:
                            yield LetterId(name, letter.message.sequence_number), letter
            except NotFound as error:
                if strict:
                    raise
                _log.warning("queue_passed_over", queue=name, error=str(error))

    async def _rows(self, found: Sequence[tuple[LetterId, DeadLetter]]) -> list[dict[str, Any]]:
        return [one.row() for one in await self._joined(found)]

    async def _joined(self, letters: Sequence[tuple[LetterId, DeadLetter]]) -> list[Found]:
        """Join dead letters with their runs, in order."""
        joined: list[Found] = []
        for queue, group in groupby(letters, lambda pair: pair[0].queue):
            pairs = list(group)
            messages = [letter.message for _, letter in pairs]
            identities = await self._replays.identify(messages, self._namespace, queue)
            known = await self._replays.known([identity.run_id for identity in identities])
            joined += [
                Found(one, letter, identity, row)
                for (one, letter), identity, row in zip(pairs, identities, known, strict=True)
            ]
        return joined


def _gone(letter_id: LetterId) -> NotFound:
    return NotFound(f"there is no dead letter {letter_id}: it was replayed or removed")


def _cursor(at: LetterId) -> str:
    return base64.urlsafe_b64encode(str(at).encode()).decode()


def _read_cursor(cursor: str) -> LetterId:
    try:
        return LetterId.read(base64.urlsafe_b64decode(cursor.encode()).decode())
    except (ValueError, NotFound) as error:
        raise InvalidRequest("this cursor is none of ours; start again without one") from error
