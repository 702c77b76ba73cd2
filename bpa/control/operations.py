"""Operations: one act on many runs or dead letters, whose set is frozen when it is asked for.

The set is written down as rows, and what is done is done to these and to no others, whatever comes
in meanwhile. ``operating`` works them off in the background; here they are asked for, held until
somebody has looked at the count, started, stopped and looked at.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog

from bpa.control.batches import jsonb
from bpa.control.cursors import cursor_of, cursor_of_numbered, read_cursor, read_numbered
from bpa.control.dead_letters import DeadLetters
from bpa.control.operation_terms import (
    DONE,
    ITEMS_AT_MOST,
    TRIES_AT_MOST,
    Act,
    Asked,
    Became,
    Choice,
    Frozen,
    State,
    Told,
    told_of,
)
from bpa.control.replay_plan import IDS_AT_MOST, LetterId
from bpa.control.replaying import Replaying
from bpa.control.search import Search
from bpa.control.searches import Searches
from bpa.domain.runs import RunId, RunStatus
from bpa.errors import Conflict, InvalidRequest, NotFound, Unavailable
from bpa.postgres import Pool, fetch_all, fetch_one, fetch_within, load_queries

_QUERIES = load_queries(__file__)
_LOOKING_S = 20.0
_WRITING_S = 20.0
SAMPLED = 10
"""Items of which a preview says what would become of them."""

_log = structlog.stdlib.get_logger(__name__)

Row = dict[str, Any]


class Operations:
    """Operations as rows.

    Args:
        pool: Connections to Postgres.
        searches: Finds runs.
        dead_letters: Finds dead letters.
        replaying: Foresees replays.
    """

    def __init__(
        self, pool: Pool, searches: Searches, dead_letters: DeadLetters, replaying: Replaying
    ) -> None:
        self._pool = pool
        self._searches = searches
        self._dead_letters = dead_letters
        self._replaying = replaying

    async def freeze(self, action: Act, choice: Choice) -> Frozen:
        """Return what is meant at this moment; nothing is written.

        Raises:
            InvalidRequest: There are more than ``ITEMS_AT_MOST``, or the search is for runs to
                which it cannot be done.
            NotFound: No deployment feeds from the queue.
            Unavailable: The broker or Postgres does not answer, or looking takes too long.
        """
        if choice.ids is not None:
            return Frozen(list(dict.fromkeys(choice.ids))[: choice.limit])
        if choice.letters is not None:
            most = choice.limit or ITEMS_AT_MOST
            chosen = await self._dead_letters.choose(choice.letters, most)
            ids = [str(one) for one in chosen.ids][: choice.limit]
            group = {"reason": chosen.reason, "cause": chosen.cause} if choice.letters.group else {}
            return Frozen(_bounded(ids), chosen.looked_at_all, group)
        runs = await self._searches.ids(
            _narrowed(choice.search or Search(), action),
            ITEMS_AT_MOST,
            _LOOKING_S,
            unreplayed=action is Act.RETRY,
        )
        if runs is None:
            raise Unavailable(
                f"looking for the runs takes longer than {_LOOKING_S:g} s; narrow the search with "
                "status:, agent:, deployment: or since:"
            )
        return Frozen(_bounded(runs)[: choice.limit])

    async def start(self, asked: Asked) -> Row:
        """Freeze the set and write the operation down; the same id again changes nothing.

        Raises:
            Conflict: Another number of items is found than was expected, or the id is taken.
            NotFound: Nothing is found.
            InvalidRequest: As :meth:`freeze`, and Unavailable too.
        """
        operation_id = asked.operation_id or str(uuid.uuid4())
        if asked.operation_id and (known := await self._find(asked.operation_id)):
            return _same(known, asked)
        frozen = await self.freeze(asked.action, asked.choice)
        count = len(frozen.subjects)
        if asked.expected_count not in (None, count):
            raise Conflict(
                f"{asked.expected_count} items were expected, and {count} are found by now; look "
                "again, and ask with that number"
            )
        if not count:
            raise NotFound(f"there is nothing to {asked.action} among what was asked for")
        state = State.HELD if asked.hold else State.RUNNING
        written = await fetch_within(
            self._pool,
            _QUERIES.start,
            _WRITING_S,
            operation_id=operation_id,
            action=asked.action,
            chosen=jsonb({**frozen.known, **asked.choice.said}),
            detail=asked.detail,
            actor=asked.actor,
            state=state,
            rate_per_s=asked.rate_per_s,
            looked_at_all=frozen.looked_at_all,
            subjects=list(frozen.subjects),
        )
        if written is None:
            raise Unavailable(
                f"{count:,} items could not be written in {_WRITING_S:g} s; try again"
            )
        _log.info(
            "operation_asked", operation_id=operation_id, action=asked.action, state=state,
            items=count,
        )  # fmt: skip
        return _same(await self.get(operation_id), asked)

    async def begin(
        self,
        operation_id: str,
        actor: str,
        *,
        detail: str | None = None,
        rate_per_s: float | None = None,
    ) -> Row:
        """Start what is held; starting it again changes nothing.

        Raises:
            NotFound: There is no such operation.
            Conflict: It has ended.
        """
        given = {"detail": detail, "rate_per_s": rate_per_s, "actor": actor}
        await fetch_all(self._pool, _QUERIES.begin, operation_id=operation_id, **given)
        row = await self.get(operation_id)
        if row["state"] == State.STOPPED:
            raise Conflict("it was stopped; ask for another one, which looks anew")
        return row

    async def stop(self, operation_id: str, actor: str) -> Row:
        """Stop an operation: what nobody is at is left alone. Stopping it again changes nothing.

        Raises:
            NotFound: There is no such operation.
            Conflict: Each item has its result.
        """
        await fetch_all(self._pool, _QUERIES.stop, operation_id=operation_id, actor=actor)
        row = await self.get(operation_id)
        if row["state"] == State.DONE:
            raise Conflict("it is done; there is nothing left to stop")
        return row

    async def get(self, operation_id: str) -> Row:
        """Return one operation.

        Raises:
            NotFound: There is none, or none any more.
        """
        row = await self._find(operation_id)
        if row is None:
            raise NotFound(
                f"there is no operation {operation_id}; they are removed 30 days after their end"
            )
        return row

    async def page(
        self, *, cursor: str | None = None, limit: int = 50
    ) -> tuple[list[Row], str | None]:
        """Return a page of operations, newest first, and the next one's cursor.

        Raises:
            InvalidRequest: The cursor is none of ours.
        """
        at, last = read_cursor(cursor) if cursor else (None, None)
        statement = "\n".join([_QUERIES.columns, _QUERIES.newest])
        rows = await fetch_all(self._pool, statement, after_at=at, after_id=last, limit=limit + 1)
        more = len(rows) > limit
        place = {**rows[limit - 1], "run_id": rows[limit - 1]["operation_id"]} if more else {}
        return [_shown(row) for row in rows[:limit]], cursor_of(place) if more else None

    async def items(
        self,
        operation_id: str,
        *,
        results: Sequence[Became] | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> tuple[list[Row], str | None]:
        """Return a page of an operation's items in order, and the next one's cursor.

        Raises:
            NotFound: There is no such operation.
            InvalidRequest: The cursor is none of ours, or another operation's.
        """
        await self.get(operation_id)
        owner, after = read_numbered(cursor) if cursor else (operation_id, 0)
        if owner != operation_id:
            raise InvalidRequest("this cursor is another operation's; start again without one")
        rows = await fetch_all(
            self._pool,
            _QUERIES.items,
            operation_id=operation_id,
            results=list(results) if results else None,
            after=min(after, ITEMS_AT_MOST),
            limit=limit + 1,
        )
        more = len(rows) > limit
        following = cursor_of_numbered(operation_id, rows[limit - 1]["nth"]) if more else None
        return rows[:limit], following

    async def sample(self, row: Row) -> list[Row]:
        """Return the first items of an operation with what would become of them now."""
        items, _ = await self.items(row["operation_id"], limit=SAMPLED)
        return await self.foresee(row["action"], [item["subject"] for item in items])

    async def foresee(self, action: Act, subjects: Sequence[str]) -> list[Row]:
        """Say what would become of items now, ``SAMPLED`` at most; nothing is changed.

        Raises:
            NotFound: No deployment feeds from a queue.
            Unavailable: The broker or Postgres does not answer.
        """
        chosen = list(subjects)[: min(SAMPLED, IDS_AT_MOST)]
        if not chosen:
            return []
        if action is Act.REPLAY:
            ids = [LetterId.read(one) for one in chosen]
            outcomes = await self._replaying.replay(ids, dry_run=True)
            told = [told_of(outcome, TRIES_AT_MOST) for outcome in outcomes]
        else:
            rows = await fetch_all(self._pool, _QUERIES.states, run_ids=chosen)
            told = [foreseen(action, row) for row in rows]
        return [
            {"nth": nth, "subject": subject, "tries": 0, "done_at": None, **_of(one)}
            for nth, (subject, one) in enumerate(zip(chosen, told, strict=True), 1)
        ]

    async def _find(self, operation_id: str) -> Row | None:
        statement = "\n".join([_QUERIES.columns, _QUERIES.one])
        row = await fetch_one(self._pool, statement, operation_id=operation_id)
        return _shown(row) if row else None


def foreseen(action: Act, row: Mapping[str, Any]) -> Told:
    """Return what would become of a run; pure."""
    status = row["status"]
    if status is None:
        return Told(Became.GONE, "there is no such run")
    if action is Act.CANCEL and status == RunStatus.QUEUED:
        return Told(Became.CANCELLED, "it waits, and ends at once")
    if action is Act.CANCEL and status in action.statuses:
        return Told(Became.CANCELLING, "its node is asked to end it")
    if action is Act.RETRY and status == RunStatus.QUEUED:
        return Told(Became.HURRIED, "it waits to be tried again, and is tried now")
    if action is Act.RETRY and status == RunStatus.DEAD_LETTERED:
        if row["replayed_as"]:
            return Told(Became.REFUSED, f"it was replayed before, as run {row['replayed_as']}")
        return Told(Became.REPLAYED, "its dead letter is replayed, as a run that goes on from it")
    return Told(Became.REFUSED, f"it is {status}")


def _of(told: Told) -> Row:
    return {"result": told.result, "why": told.why, "run_id": told.run_id}


def _narrowed(search: Search, action: Act) -> Search:
    """Return the search for those runs alone to which it can be done."""
    wanted = action.statuses if search.statuses is None else action.statuses & {*search.statuses}
    if not wanted:
        raise InvalidRequest(
            f"runs that are {', '.join(search.statuses or ())} cannot be "
            f"{'cancelled' if action is Act.CANCEL else 'retried'}; search for "
            f"{', '.join(sorted(action.statuses))}"
        )
    return replace(search, statuses=tuple(sorted(wanted)))


def _bounded(ids: Sequence[RunId] | Sequence[str]) -> Sequence[str]:
    if len(ids) > ITEMS_AT_MOST:
        raise InvalidRequest(
            f"more than {ITEMS_AT_MOST:,} are found, and one operation takes no more: narrow it, "
            "as with since: and until: or by group, and do the rest afterwards"
        )
    return ids


def _same(row: Row, asked: Asked) -> Row:
    is_same = row["chosen"].items() >= asked.choice.said.items()
    if row["action"] != asked.action or not is_same:
        raise Conflict(f"the id {row['operation_id']} is another operation's; choose another one")
    return row


def _shown(row: Row) -> Row:
    counts = {Became(name): number for name, number in row["counts"].items()}
    return {
        **row,
        "action": Act(row["action"]),
        "state": State(row["state"]),
        "counts": counts,
        "succeeded": sum(number for result, number in counts.items() if result in DONE),
        "remaining": row["items"] - row["finished"],
    }
