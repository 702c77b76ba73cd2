"""The sweep: what the broker dead-lettered by itself becomes the end of its run (I1).

A message whose deliveries or time ran out is moved to the dead-letter queue without a word to us.
The sweep goes through the dead letters; a run that lives on without any message is ended under its
epoch, so that whoever works on it is fenced before its next effect, and a message that never
became a run is recorded as one (``burials``). A run that completed before its message was moved
stays so: a replay of such a dead letter only settles.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import aclosing

import structlog

from bpa.connectors.service_bus import DeadLetter
from bpa.control.burials import Burials, Swept
from bpa.control.dead_letters import Reader
from bpa.control.deployments import Deployments
from bpa.control.replays import Replays
from bpa.errors import BpaError
from bpa.postgres import Pool, fetch_all, load_queries

_QUERIES = load_queries(__file__)

_log = structlog.stdlib.get_logger(__name__)


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
    ) -> None:
        self._environment = environment
        self._namespace = namespace
        self._deployments = deployments
        self._replays = replays
        self._burials = burials
        self._pool = pool
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
                        total += await self._sweep(page, feeding.queue)
            except BpaError as error:
                _log.warning(
                    "sweep_cut_short", queue=feeding.queue, code=error.code, error=str(error)
                )
        return total

    async def _sweep(self, page: Sequence[DeadLetter], queue: str) -> Swept:
        messages = [letter.message for letter in page]
        identities = await self._replays.identify(messages, self._namespace, queue)
        swept = await self._burials.heed([*zip(identities, page, strict=True)], queue)
        if swept != Swept():
            _log.warning(
                "dead_letters_swept", queue=queue, ended=swept.ended, recorded=swept.recorded
            )
        return swept
