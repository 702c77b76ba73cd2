"""Replay dead letters: a row, then the new message, then the dead letter is completed.

In this order a crash at any point doubles rather than loses, and what is doubled joins one run: the
message carries the run id that the row has committed, and ingest checks it against the row.
Repeating a replay that was cut off goes on with it while the dead letter is there.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from bpa.amqp import MalformedMessage
from bpa.connectors import Message, PropertyValue, SettlementLost
from bpa.connectors.service_bus import Rewrite, replayed
from bpa.control.burials import Burials
from bpa.control.dead_letters import DeadLetters, Found
from bpa.control.replay_plan import (
    IDS_AT_MOST,
    Action,
    Edit,
    LetterId,
    Outcome,
    Planned,
    Result,
    plan,
)
from bpa.control.replays import RUN_ID_PROPERTY, NewReplay, Replays, new_run_id
from bpa.control.runs import Runs
from bpa.documents.characters import one_line
from bpa.domain.runs import RunId, RunStatus
from bpa.errors import BpaError, Conflict, InvalidRequest, NotFound
from bpa.telemetry.metrics import Metrics
from bpa.telemetry.spans import replaying

_PASS_S = 20.0
"""Seconds after which a request takes no further dead letter; what is left is said to be busy."""
_NAME_CHARS_MAX = 4096

_log = structlog.stdlib.get_logger(__name__)


class Locks(Protocol):
    """Locks chosen dead letters of a queue."""

    async def next_of(self, wanted: Collection[int]) -> Message | None:
        """Return the next wanted dead letter, locked; None when no more can be had now."""

    async def complete(self, message: Message) -> None:
        """Remove it."""

    async def give_back(self, message: Message) -> None:
        """Unlock it."""


class Publisher(Protocol):
    """Sends to a queue."""

    async def send_encoded(self, encoded: bytes) -> None:
        """Publish one encoded message."""


class Replaying:
    """Replays dead letters and retries runs.

    Args:
        dead_letters: Finds them and their runs.
        replays: The rows.
        burials: Records what the broker took before it became a run.
        runs: Where a waiting run is hurried.
        locks: Opens what locks the dead letters of a queue.
        publisher: Opens what sends to a queue.
        metrics: Counts results.
    """

    def __init__(
        self,
        dead_letters: DeadLetters,
        replays: Replays,
        burials: Burials,
        runs: Runs,
        locks: Callable[[str], AbstractAsyncContextManager[Locks]],
        publisher: Callable[[str], AbstractAsyncContextManager[Publisher]],
        metrics: Metrics,
    ) -> None:
        self._dead_letters = dead_letters
        self._replays = replays
        self._burials = burials
        self._runs = runs
        self._locks = locks
        self._publisher = publisher
        self._metrics = metrics
        for result in Result:  # at 0: an increase then shows the first one
            metrics.dlq_replayed.labels(result.value)

    async def replay(
        self,
        ids: Sequence[LetterId],
        *,
        edit: Edit | None = None,
        actor: str = "api",
        dry_run: bool = False,
    ) -> list[Outcome]:
        """Replay dead letters; return what became of each, in order.

        With ``dry_run`` nothing is locked, written or sent: the outcomes say what would be done.

        Raises:
            InvalidRequest: More than ``IDS_AT_MOST`` ids, or an edit for more than one of them.
            NotFound: No deployment feeds from a queue that is named.
            Unavailable: The broker or Postgres did not answer before anything was done.
        """
        wanted = list(dict.fromkeys(ids))
        if not 1 <= len(wanted) <= IDS_AT_MOST:
            raise InvalidRequest(f"name 1 to {IDS_AT_MOST} dead letters at a time")
        if edit is not None and len(wanted) > 1:
            raise InvalidRequest("another body replaces that of one dead letter; name one id")
        found = await self._dead_letters.find(wanted)
        outcomes = {one: Outcome(one, Result.GONE, "there is no such dead letter") for one in ids}
        ready: dict[str, dict[int, tuple[Found, Planned]]] = defaultdict(dict)
        for one in found.values():
            planned = plan(one.message, one.identity, one.known, edit)
            outcomes[one.id] = _foreseen(one.id, planned)
            if planned.action is not Action.REFUSE:
                ready[one.id.queue][one.id.sequence_number] = (one, planned)
        if not dry_run:
            for queue, letters in ready.items():
                for outcome in await self._replay_in(queue, letters, edit, actor):
                    outcomes[outcome.id] = outcome
            for outcome in outcomes.values():
                self._metrics.dlq_replayed.labels(outcome.result.value).inc()
        return [outcomes[one] for one in wanted]

    async def retry(self, run_id: RunId, actor: str) -> Outcome | None:
        """Try a run again: its dead letter is replayed; if it waits to be tried, it waits no more.

        Returns:
            What became of its dead letter; None for a run that waited.

        Raises:
            NotFound: There is no such run.
            Conflict: It is at work, it has completed, or its dead letter is not there.
        """
        retried = (await self.retry_many([run_id], actor))[run_id]
        if isinstance(retried, BpaError):
            raise retried
        return retried

    async def retry_many(
        self, run_ids: Sequence[RunId], actor: str
    ) -> dict[RunId, Outcome | BpaError | None]:
        """Try runs again, ``IDS_AT_MOST`` at most; return of each what :meth:`retry` comes to.

        Raises:
            Unavailable: The broker or Postgres did not answer before a letter was replayed.
        """
        retried: dict[RunId, Outcome | BpaError | None] = {}
        dead: dict[RunId, LetterId] = {}
        for known in await self._replays.known(run_ids):
            run_id = RunId(known["run_id"])
            retried[run_id] = None
            if known["status"] == RunStatus.QUEUED and await self._runs.hurry(run_id, actor):
                continue
            if known["status"] == RunStatus.DEAD_LETTERED:
                dead[run_id] = LetterId(known["queue"], known["sequence_number"])
            else:
                retried[run_id] = _not_retried(known)
        by_queue: dict[str, dict[RunId, LetterId]] = defaultdict(dict)
        for run_id, letter_id in dead.items():
            by_queue[letter_id.queue][run_id] = letter_id
        for letters in by_queue.values():
            try:
                retried |= await self._retry_in(letters, actor)
            except NotFound as error:  # nobody feeds from the queue any more
                retried |= dict.fromkeys(letters, error)
        return retried

    async def _retry_in(
        self, letters: Mapping[RunId, LetterId], actor: str
    ) -> dict[RunId, Outcome | BpaError | None]:
        """Replay what dead-lettered runs of one queue have there."""
        found = await self._dead_letters.find(list(letters.values()))
        there = {
            run_id: letter_id
            for run_id, letter_id in letters.items()
            if letter_id in found and found[letter_id].identity.run_id == run_id
        }
        retried: dict[RunId, Outcome | BpaError | None] = {}
        if there:
            outcomes = await self.replay(list(there.values()), actor=actor)
            retried |= dict(zip(there, outcomes, strict=True))
        missing = [run_id for run_id in letters if run_id not in there]
        for known in await self._replays.known(missing) if missing else []:
            retried[RunId(known["run_id"])] = _without_letter(known)
        return retried

    async def _replay_in(
        self,
        queue: str,
        letters: dict[int, tuple[Found, Planned]],
        edit: Edit | None,
        actor: str,
    ) -> list[Outcome]:
        """Replay dead letters of one queue, in the order in which the broker hands them out."""
        clock = asyncio.get_running_loop().time
        until_s = clock() + _PASS_S
        left = dict(letters)
        outcomes: list[Outcome] = []
        why = "it could not be locked: somebody else has it, or it lies too deep; try again later"
        try:
            async with self._locks(queue) as locks, self._publisher(queue) as publisher:
                while left and clock() < until_s:
                    message = await locks.next_of(left)
                    if message is None:
                        break
                    one, planned = left.pop(message.sequence_number)
                    work = _Work(one, planned, edit, actor, message, locks, publisher)
                    outcomes.append(await self._one(work))
        except BpaError as error:
            why = f"its queue does not answer: {error}"
            _log.warning("replay_interrupted", queue=queue, error=str(error), left=len(left))
        return outcomes + [
            Outcome(one.id, Result.BUSY, why, planned) for one, planned in left.values()
        ]

    async def _one(self, work: _Work) -> Outcome:
        """Take one locked dead letter through the protocol."""
        one, sent = work.found, False
        planned, run_id = work.planned, work.planned.run_id
        try:
            planned, run_id = await self._begun(work)
            if planned.action in (Action.REPLAY, Action.CONTINUE) and run_id is not None:
                await work.publisher.send_encoded(_encoded(work, planned, run_id))
                sent = True
                await self._replays.sent(run_id)
            if planned.action is not Action.REFUSE:
                await work.locks.complete(work.message)
                if run_id is not None:
                    await self._replays.settled(run_id)
        except (BpaError, MalformedMessage) as error:
            await work.locks.give_back(work.message)
            lost = isinstance(error, SettlementLost)
            result = Result.SENT if sent else Result.BUSY if lost else Result.FAILED
            why = f"{error}; repeat it to finish" if sent else str(error)
            _log.warning("dead_letter_not_replayed", dead_letter=str(one.id), error=str(error))
            return Outcome(one.id, result, why, planned, run_id)
        if planned.action is Action.REFUSE:
            await work.locks.give_back(work.message)
        outcome = _foreseen(one.id, planned)
        _log.info(
            "dead_letter_replayed",
            dead_letter=str(one.id),
            result=outcome.result,
            replayed_run_id=planned.replayed_run_id,
            new_run_id=run_id,
        )
        return Outcome(one.id, outcome.result, outcome.why, planned, run_id)

    async def _begun(self, work: _Work) -> tuple[Planned, RunId | None]:
        """Commit the row that says who replays what as which run, before anything is sent.

        What never became a run is recorded as one that has ended, first: else a copy of the
        message, or who was slow to record it, could begin that run beside its replay's. Where the
        run lives or got a successor meanwhile, what is known is looked up and judged again.
        """
        one, planned = work.found, work.planned
        if planned.action is Action.REPLAY:
            if one.known["status"] is None:
                await self._burials.record([(one.identity, one.letter)], one.id.queue)
            new = _new(work)
            if await self._replays.begin(new):
                return planned, new.run_id
            (known,) = await self._replays.known([one.identity.run_id])
            planned = plan(one.message, one.identity, known, work.edit)
            if planned.action is Action.REPLAY:
                raise Conflict("its run changes at this moment; try again")
        if planned.action is not Action.REFUSE:
            action = f"dead_letter.{planned.action}"
            detail = {"dead_letter": str(one.id), "run_id": planned.run_id, "why": planned.why}
            await self._replays.note(work.actor, action, planned.replayed_run_id, detail)
        return planned, planned.run_id


@dataclass(frozen=True, slots=True)
class _Work:
    """One dead letter, locked, with what its replay needs."""

    found: Found
    planned: Planned
    edit: Edit | None
    actor: str
    message: Message
    locks: Locks
    publisher: Publisher


def _not_retried(known: Mapping[str, Any]) -> BpaError:
    run_id, status = known["run_id"], known["status"]
    if status is None:
        return NotFound(f"there is no run {run_id}")
    return Conflict(
        f"run {run_id} is {status}; what can be retried is a dead-lettered or a waiting run"
    )


def _without_letter(known: Mapping[str, Any]) -> Conflict:
    run_id, following = known["run_id"], known["next_run_id"]
    if following:
        return Conflict(f"run {run_id} was replayed before, as run {following}")
    return Conflict(
        f"the message of run {run_id} is not in the dead-letter queue of {known['queue']!r}: it is "
        "not settled yet, or somebody removed it"
    )


def _foreseen(letter_id: LetterId, planned: Planned) -> Outcome:
    """Return what comes of a plan when nothing goes wrong."""
    result = {
        Action.REPLAY: Result.REPLAYED,
        Action.CONTINUE: Result.REPLAYED,
        Action.SETTLE: Result.SETTLED,
        Action.REFUSE: Result.REFUSED,
    }[planned.action]
    return Outcome(letter_id, result, planned.why, planned, planned.run_id)


def _new(work: _Work) -> NewReplay:
    one, planned = work.found, work.planned
    original_message_id = one.known["original_message_id"] or one.message.message_id or ""
    return NewReplay(
        run_id=new_run_id(),
        replayed_run_id=planned.replayed_run_id,
        original_run_id=planned.original_run_id,
        replay_number=planned.replay_number,
        queue=one.id.queue,
        sequence_number=one.id.sequence_number,
        message_id=_name(original_message_id),
        reason=_name(one.letter.reason),
        edited=planned.edited,
        body_sha256=planned.body_sha256,
        effect_key=planned.effect_key,
        requested_by=work.actor,
    )


def _encoded(work: _Work, planned: Planned, run_id: RunId) -> bytes:
    """Return the new message; sent again, it is the same, its message id included.

    So a queue with duplicate detection drops the second copy, and only that one.
    """
    one = work.found
    properties: dict[str, PropertyValue] = {
        "x-replayed": True,
        "x-replay-count": planned.replay_number,
        "x-original-message-id": _name(
            one.known["original_message_id"] or one.message.message_id or ""
        ),
        "x-original-run-id": planned.original_run_id,
        "x-original-dead-letter-reason": _name(one.letter.reason),
        RUN_ID_PROPERTY: run_id,
        "traceparent": str(replaying(run_id)),
        "Diagnostic-Id": str(replaying(run_id)),
    }
    edited = work.edit if planned.edited else None
    return replayed(
        one.letter.encoded,
        Rewrite(
            message_id=run_id,
            properties=properties,
            removed=frozenset({"tracestate"}),
            body=edited.body if edited else None,
            content_type=edited.content_type if edited else None,
        ),
    )


def _name(text: str) -> str:
    """Return a stranger's name as it can be stored and shown."""
    return one_line(text)[:_NAME_CHARS_MAX]
