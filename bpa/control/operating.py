"""Works operations off, in the background of every control replica.

An item is taken for a while, done, and its result written down once. Whoever is killed in between
leaves items that are taken again, and done again. That is harmless for each of the acts: a run that
is cancelled stays so, and is asked again in vain; a run that waits no more is told so again; and a
replay goes on with the row that it wrote before it sent (decision 0011). What a repetition finds
done is looked up, so that the item tells what the first one did.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import structlog

from bpa.control.actors import cancelled_by
from bpa.control.batches import jsonb
from bpa.control.operation_terms import Act, Became, Told, told_of
from bpa.control.replay_plan import LetterId
from bpa.control.replaying import Replaying
from bpa.control.runs import Runs
from bpa.domain.runs import TERMINAL, RunId
from bpa.errors import BpaError, Conflict, NotFound, Reason, Unavailable
from bpa.postgres import Pool, fetch_all, fetch_one, load_queries

_QUERIES = load_queries(__file__)
AT_ONCE = 25
"""Items of one pass."""
TAKEN_S = 60.0
"""For so long nobody else takes them; three times what a replay of that many of one queue may take.
Where they lie in many queues that all but hang, another replica may begin with them beside us."""
KEPT_DAYS = 30
HELD_HOURS = 24
_LOOK_EVERY_S = 2.0
_FORGET_EVERY_S = 600.0
_FORGOTTEN_AT_ONCE = 100
_AGAIN_S = 5.0

_log = structlog.stdlib.get_logger(__name__)

Item = Mapping[str, Any]


class Operating:
    """Takes the next items of an operation and does to them what was asked.

    Args:
        pool: Connections to Postgres.
        runs: Where runs are cancelled.
        replaying: Replays dead letters, retries runs.
        placeable: Called when runs may have become ready to be placed, or their slots free.
    """

    def __init__(
        self, pool: Pool, runs: Runs, replaying: Replaying, placeable: Callable[[], None]
    ) -> None:
        self._pool = pool
        self._runs = runs
        self._replaying = replaying
        self._placeable = placeable
        self._woken = asyncio.Event()
        self._acts = {Act.CANCEL: self._cancel, Act.RETRY: self._retry, Act.REPLAY: self._replay}

    def wake(self) -> None:
        """Look at once: an operation was started."""
        self._woken.set()

    async def run(self) -> None:
        """Work until cancelled; an outage of Postgres is waited out."""
        clock = asyncio.get_running_loop().time
        forgotten_s = clock()
        while True:
            finished, pause_s = 0, _LOOK_EVERY_S * (0.5 + random.random())  # noqa: S311 - jitter
            try:
                finished = await self.one_pass()
                pause_s = min(pause_s, await self._soon_s())
                if clock() - forgotten_s > _FORGET_EVERY_S:
                    forgotten_s = clock()
                    await self.forget()
            except Unavailable as error:
                _log.warning("operating_waits", error=str(error))
            if not finished:
                await self._rest(pause_s)

    async def one_pass(self) -> int:
        """Take the next items of one operation and do them; return how many are finished.

        Raises:
            Unavailable: Postgres is away.
        """
        items = await fetch_all(self._pool, _QUERIES.take, at_most=AT_ONCE, for_s=TAKEN_S)
        if not items:
            return 0
        operation_id = items[0]["operation_id"]
        try:
            told = await self._acts[Act(items[0]["action"])](items)
        except Unavailable as error:  # what was done before is found done the next time
            await fetch_all(
                self._pool,
                _QUERIES.interrupted,
                operation_id=operation_id,
                numbers=[item["nth"] for item in items],
                trouble=str(error)[:1_000],
                again_s=_AGAIN_S,
            )
            _log.warning("operation_waits", operation_id=operation_id, error=str(error))
            return 0
        return await self._record(operation_id, told)

    async def forget(self) -> int:
        """Remove operations that ended long ago, and those that nobody started; return how many."""
        kept = {"kept_days": KEPT_DAYS, "held_hours": HELD_HOURS}
        gone = 0
        while gone < _FORGOTTEN_AT_ONCE and await fetch_all(self._pool, _QUERIES.forget, **kept):
            gone += 1
        if gone:
            _log.info("operations_forgotten", count=gone)
        return gone

    async def _soon_s(self) -> float:
        """Return in how many seconds a rate allows the next items; endless where none waits."""
        row = await fetch_one(self._pool, _QUERIES.soon)
        return row["soon_s"] if row and row["soon_s"] is not None else math.inf

    async def _rest(self, pause_s: float) -> None:
        try:
            async with asyncio.timeout(pause_s):
                await self._woken.wait()
        except TimeoutError:
            return
        self._woken.clear()

    async def _record(self, operation_id: str, told: Mapping[int, Told]) -> int:
        rows = [{"nth": nth, **asdict(one)} for nth, one in told.items()]
        counted = await fetch_all(
            self._pool, _QUERIES.record, operation_id=operation_id, rows=jsonb(rows)
        )
        self._placeable()
        finished = int(counted[0]["finished"]) if counted else 0
        if finished:
            _log.info("operation_goes_on", operation_id=operation_id, finished=finished)
        return finished

    async def _cancel(self, items: Sequence[Item]) -> dict[int, Told]:
        """Cancel runs; one that has ended as cancelled is, whoever of us asked for it."""
        told: dict[int, Told] = {}
        for item in items:
            detail = cancelled_by(item["requested_by"], item["detail"])
            run_id = RunId(item["subject"])
            try:
                status = await self._runs.cancel(run_id, item["requested_by"], detail)
            except NotFound as error:
                told[item["nth"]] = Told(Became.GONE, str(error))
            except Conflict as error:
                told[item["nth"]] = await self._ended(run_id, error)
            else:
                is_over = status in TERMINAL
                why = "" if is_over else "its node has been asked to end it"
                told[item["nth"]] = Told(Became.CANCELLED if is_over else Became.CANCELLING, why)
        return told

    async def _ended(self, run_id: RunId, error: Conflict) -> Told:
        row = await fetch_one(self._pool, _QUERIES.reason, run_id=run_id)
        if row and row["reason"] == Reason.CANCELLED:
            return Told(Became.CANCELLED, "it is cancelled already")
        return Told(Became.REFUSED, str(error))

    async def _retry(self, items: Sequence[Item]) -> dict[int, Told]:
        nth_of = {RunId(item["subject"]): item["nth"] for item in items}
        tries_of = {RunId(item["subject"]): item["tries"] for item in items}
        retried = await self._replaying.retry_many(list(nth_of), items[0]["requested_by"])
        told: dict[int, Told] = {}
        unsure: list[RunId] = []
        for run_id, outcome in retried.items():
            if outcome is None:
                told[nth_of[run_id]] = Told(Became.HURRIED)
            elif isinstance(outcome, BpaError):
                gone = isinstance(outcome, NotFound)
                told[nth_of[run_id]] = Told(Became.GONE if gone else Became.REFUSED, str(outcome))
                unsure.append(run_id)
            else:
                told[nth_of[run_id]] = told_of(outcome, tries_of[run_id])
        if unsure:
            rows = await fetch_all(
                self._pool,
                _QUERIES.runs_replayed,
                run_ids=unsure,
                operation_id=items[0]["operation_id"],
            )
            for row in rows:
                told[nth_of[RunId(row["replayed_run_id"])]] = _replayed(row["run_id"])
        return told

    async def _replay(self, items: Sequence[Item]) -> dict[int, Told]:
        by_queue: dict[str, dict[LetterId, Item]] = defaultdict(dict)
        for item in items:
            letter_id = LetterId.read(item["subject"])
            by_queue[letter_id.queue][letter_id] = item
        told: dict[int, Told] = {}
        for letters in by_queue.values():
            told |= await self._replay_in(letters)
        return told

    async def _replay_in(self, letters: Mapping[LetterId, Item]) -> dict[int, Told]:
        first = next(iter(letters.values()))
        try:
            outcomes = await self._replaying.replay(list(letters), actor=first["requested_by"])
        except NotFound as error:  # nobody feeds from the queue any more
            return {item["nth"]: Told(Became.GONE, str(error)) for item in letters.values()}
        told = {
            letters[outcome.id]["nth"]: told_of(outcome, letters[outcome.id]["tries"])
            for outcome in outcomes
        }
        gone = [one for one, item in letters.items() if told[item["nth"]].result is Became.GONE]
        if gone:
            rows = await fetch_all(
                self._pool,
                _QUERIES.letters_replayed,
                queues=[one.queue for one in gone],
                numbers=[one.sequence_number for one in gone],
                operation_id=first["operation_id"],
            )
            for row in rows:
                letter_id = LetterId(row["queue"], row["sequence_number"])
                told[letters[letter_id]["nth"]] = _replayed(row["run_id"])
        return told


def _replayed(run_id: str) -> Told:
    return Told(Became.REPLAYED, "replayed since the operation was asked for", run_id)
