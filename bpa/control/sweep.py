"""The sweep: what the broker dead-lettered by itself becomes the end of its run (I1).

A message whose deliveries or time ran out is moved to the dead-letter queue without a word to us.
The sweep reads the dead letters that may be new (``sweep_mark`` tells which). A run that lives on
without any message is ended under its epoch, so that whoever works on it is fenced before its next
effect, and a message that never became a run is recorded as one (``burials``). A run that completed
before its message was moved stays so: a replay of such a dead letter only settles.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from typing import Protocol

import structlog

from bpa.connectors.service_bus import DeadLetter, Peek
from bpa.control.burials import Burials, Swept
from bpa.control.deployments import Deployments
from bpa.control.replays import Replays
from bpa.control.sweep_mark import Mark
from bpa.errors import BpaError
from bpa.postgres import Pool, fetch_all, load_queries

_QUERIES = load_queries(__file__)

PAGE = 250
"""Letters of one look; what cannot be new is read again that many with each sweep."""

REST_AT_MOST_S = 300.0
"""What the broker buries meanwhile goes on as a run until then, so cost has to wait at last."""

_log = structlog.stdlib.get_logger(__name__)


class Reader(Protocol):
    """What is read of one queue."""

    async def oldest_waiting(self) -> int | None:
        """Return the lowest number of what is in the queue itself; None when it is empty."""

    def peeking(self) -> AbstractAsyncContextManager[Peek]:
        """Connect to the dead letters."""


@dataclass(slots=True)
class _Turn:
    """One sweep of one queue, as far as it has come."""

    queue: str
    swept: Swept = field(default_factory=Swept)
    read_s: float = 0.0


class Sweep:
    """Goes through the dead letters of the queues that are fed from; replicas take turns.

    Args:
        environment: Whose deployments.
        namespace: The namespace's name, a part of every run id.
        deployments: Which queues are fed from.
        replays: Whose each message is.
        burials: Brings what is known of their runs up to them.
        pool: Connections to Postgres.
        reader: Builds the reader of a queue's dead letters.
        every_s: Seconds between two passes over one queue, whoever makes them.
        share: What part of the time may go into reading a queue's dead letters: a rest follows that
            is as long as that takes, `REST_AT_MOST_S` at most; none after a turn that was cut
            short, whose time says nothing of the letters.
    """

    def __init__(
        self,
        environment: str,
        namespace: str,
        deployments: Deployments,
        replays: Replays,
        burials: Burials,
        pool: Pool,
        reader: Callable[[str], Reader],
        every_s: float,
        share: float = 0.05,
    ) -> None:
        self._environment = environment
        self._namespace = namespace
        self._deployments = deployments
        self._replays = replays
        self._burials = burials
        self._pool = pool
        self._reader = reader
        self._every_s = every_s
        self._share = share

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
            rows = await fetch_all(
                self._pool, _QUERIES.claim, queue=feeding.queue, every_s=self._every_s / 2
            )
            if rows:
                total += await self._turn_at(feeding.queue, Mark(**rows[0]))
        return total

    async def _turn_at(self, queue: str, mark: Mark) -> Swept:
        """Sweep one queue, and rest in proportion to what reading it took."""
        turn, rest_s = _Turn(queue), 0.0
        try:
            mark = await self._read(turn, mark)
            await fetch_all(self._pool, _QUERIES.mark, queue=queue, **asdict(mark))
            rest_s = min(turn.read_s * (1 / self._share - 1), REST_AT_MOST_S)
        except BpaError as error:
            _log.warning("sweep_cut_short", queue=queue, code=error.code, error=str(error))
        await fetch_all(self._pool, _QUERIES.rest, queue=queue, rest_s=rest_s)
        if turn.swept != Swept():
            counts = asdict(turn.swept)
            _log.warning("dead_letters_swept", queue=queue, **counts)
        return turn.swept

    async def _read(self, turn: _Turn, mark: Mark) -> Mark:
        """Heed what may be new, and a few of the others; return the mark for the next turn."""
        reader, clock = self._reader(turn.queue), asyncio.get_running_loop().time
        oldest = await reader.oldest_waiting()  # before any letter is read
        mark = mark.begin(oldest)
        highest, following = 0, max(mark.new_from, 1)
        async with reader.peeking() as peek:
            since_s = clock()
            try:
                while page := await peek(PAGE, following):
                    await self._heed(page, turn)
                    highest = page[-1].message.sequence_number
                    following = highest + 1
                    await fetch_all(self._pool, _QUERIES.go_on, queue=turn.queue)
                last = await self._check(peek, mark, turn)
            finally:
                turn.read_s = clock() - since_s
        return mark.checked(last).end(oldest, highest)

    async def _check(self, peek: Peek, mark: Mark, turn: _Turn) -> int | None:
        """Heed a few of the letters that cannot be new; return the last one's number.

        None when there were no more of them.
        """
        if mark.checked_to >= mark.new_from:
            return None
        page = await peek(PAGE, max(mark.checked_to, 1))
        known = [one for one in page if one.message.sequence_number < mark.new_from]
        if known:
            await self._heed(known, turn)
        return known[-1].message.sequence_number if known and known == page else None

    async def _heed(self, page: Sequence[DeadLetter], turn: _Turn) -> None:
        messages = [letter.message for letter in page]
        identities = await self._replays.identify(messages, self._namespace, turn.queue)
        letters = [*zip(identities, page, strict=True)]
        turn.swept += await self._burials.heed(letters, turn.queue)
