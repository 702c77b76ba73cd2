"""Dead letters joined with their runs: listed, counted, shown."""

from __future__ import annotations

import asyncio
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
from bpa.control.causes import Filter, cause_of, group_of
from bpa.control.deployments import Deployments
from bpa.control.message_properties import readable, shown
from bpa.control.replay_plan import Identity, LetterId, plan
from bpa.control.replays import Replays, Row
from bpa.documents.characters import excerpt
from bpa.errors import InvalidRequest, NotFound

SCANNED_AT_MOST = 5_000
"""Dead letters looked at for one page or one count: a filter may match few of them."""
CHOOSING_S = 20.0
"""Seconds in which letters are looked at to choose those of a filter."""
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
class Chosen:
    """The dead letters that a filter means at one moment, queue by queue, oldest first."""

    ids: Sequence[LetterId]
    looked_at_all: bool
    """False where the time was over before all letters had been looked at."""
    reason: str = ""
    """Of the first of them."""
    cause: str = ""


@dataclass(slots=True)
class _Group:
    """Dead letters of one queue, reason and cause, as they are counted."""

    sample: LetterId
    count: int = 0
    first: datetime | None = None
    last: datetime | None = None

    def add(self, enqueued_at: datetime) -> None:
        self.count += 1
        self.first = min(self.first or enqueued_at, enqueued_at)
        self.last = max(self.last or enqueued_at, enqueued_at)


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
        cause = cause_of(self.letter.description)
        return {
            "id": str(self.id),
            "queue": self.id.queue,
            "sequence_number": self.id.sequence_number,
            "message_id": readable(message.message_id or ""),
            "reason": readable(self.letter.reason),
            "description": readable(self.letter.description),
            "cause": cause,
            "group": group_of(self.id.queue, self.letter.reason, cause),
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
        chosen: Filter | None = None,
        *,
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
        chosen = chosen or Filter()
        after = _read_cursor(cursor) if cursor else None
        found: list[tuple[LetterId, DeadLetter]] = []
        scanned = kept_bytes = 0
        queues, strict = await self._queues(chosen.queue), chosen.queue is not None
        async with aclosing(self._letters(queues, after, strict=strict)) as letters:
            async for at, letter in letters:
                scanned += 1
                if chosen.takes(at.queue, letter.reason, letter.description):
                    found.append((at, letter))
                    kept_bytes += len(letter.encoded)
                if (
                    len(found) == limit
                    or scanned >= SCANNED_AT_MOST
                    or kept_bytes > _KEPT_BYTES_AT_MOST
                ):
                    return await self._rows(found), _cursor(at)
        return await self._rows(found), None

    async def choose(self, chosen: Filter, at_most: int) -> Chosen:
        """Return the ids of the letters that a filter means now, ``at_most`` and one at most.

        Raises:
            NotFound: No deployment feeds from that queue.
            Unavailable: The broker does not answer.
        """
        clock = asyncio.get_running_loop().time
        until_s = clock() + CHOOSING_S
        ids: list[LetterId] = []
        first: DeadLetter | None = None
        in_time = True
        queues, strict = await self._queues(chosen.queue), chosen.queue is not None
        async with aclosing(self._letters(queues, strict=strict)) as letters:
            async for at, letter in letters:
                if chosen.takes(at.queue, letter.reason, letter.description):
                    ids.append(at)
                    first = first or letter
                in_time = clock() <= until_s
                if len(ids) > at_most or not in_time:
                    break
        if first is None:
            return Chosen(ids, in_time)
        return Chosen(ids, in_time, readable(first.reason), cause_of(first.description))

    async def groups(self, queue: str | None = None) -> list[dict[str, Any]]:
        """Count dead letters by queue, reason and cause, the largest group first.

        Each has the first and the last time that a message of it was enqueued, and the id of its
        oldest letter. ``complete`` is false where a queue holds more than ``SCANNED_AT_MOST``: the
        counts are then of the oldest so many. Raises as :meth:`page`.
        """
        rows: list[dict[str, Any]] = []
        for name in await self._queues(queue):
            groups, complete = await self._groups_in(name, strict=queue is not None)
            rows += [
                {
                    "id": group_of(name, reason, cause),
                    "queue": name,
                    "reason": readable(reason),
                    "cause": cause,
                    "count": group.count,
                    "first_enqueued_at": group.first,
                    "last_enqueued_at": group.last,
                    "sample_id": str(group.sample),
                    "complete": complete,
                }
                for (reason, cause), group in groups.items()
            ]
        return sorted(rows, key=lambda row: (-row["count"], row["queue"], row["id"]))

    async def totals(self, queue: str | None = None) -> list[dict[str, Any]]:
        """Count dead letters by queue and reason: the sums of their groups; raises as `page`."""
        totals: dict[tuple[str, str], dict[str, Any]] = {}
        for row in await self.groups(queue):
            total = totals.setdefault((row["queue"], row["reason"]), {**row, "count": 0})
            total["count"] += row["count"]
            for name, chosen in (("first_enqueued_at", min), ("last_enqueued_at", max)):
                total[name] = chosen(total[name], row[name])
        return [total for _, total in sorted(totals.items())]

    async def _groups_in(
        self, queue: str, *, strict: bool
    ) -> tuple[dict[tuple[str, str], _Group], bool]:
        """Count the oldest letters of a queue by reason and cause; tell whether that is all."""
        groups: dict[tuple[str, str], _Group] = {}
        scanned = 0
        async with aclosing(self._letters([queue], strict=strict)) as letters:
            async for at, letter in letters:
                if scanned == SCANNED_AT_MOST:
                    return groups, False
                scanned += 1
                key = (letter.reason, cause_of(letter.description))
                groups.setdefault(key, _Group(at)).add(letter.message.enqueued_at)
        return groups, True

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
