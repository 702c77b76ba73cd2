"""Readiness: whether a replica can do its work, and what it waits for, in words.

Each dependency is looked at once a second, by a task of its own, and a probe is answered from what
was last seen: so it is answered at once, whatever hangs. A dependency that is away is waited for,
at the start as later: a wrong password too, since it may be about to change, and since a process
that ends takes the reason with it while one that waits repeats it in its log and in ``/readyz``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import structlog

from bpa.clocks import Clocks
from bpa.errors import Unavailable

_log = structlog.stdlib.get_logger(__name__)
_EVERY_S = 1.0
_SILENT_AFTER_S = 3.0
_REPEAT_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class State:
    """A replica at this moment."""

    started: bool = True
    """Whether the schema is in place; until then nothing but health is served."""
    reasons: list[str] = field(default_factory=list)
    """Why it is not ready; empty when it is."""
    degraded: list[str] = field(default_factory=list)
    """What is away though the replica is ready: a queue."""

    @property
    def is_ready(self) -> bool:
        """Whether it should get requests."""
        return self.started and not self.reasons


class Dependency:
    """What a replica cannot be ready without.

    Args:
        name: As people know it.
        look: One round trip; raises Unavailable while it is away.
        steady: A clock that is never set, seconds.
    """

    def __init__(
        self,
        name: str,
        look: Callable[[], Awaitable[None]],
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._look = look
        self._steady = steady
        self._trouble: str | None = f"{name} has not answered yet"
        self._asked_s: float | None = None
        self._told_s = self._away_s = steady()

    @property
    def trouble(self) -> str | None:
        """Why it cannot be used now, or None."""
        if self._asked_s is not None:
            silent_s = self._steady() - self._asked_s
            if silent_s > _SILENT_AFTER_S:
                return f"{self.name} has not answered for {silent_s:.0f} s"
        return self._trouble

    async def run(self) -> None:
        """Look once a second until cancelled."""
        while True:
            await self.one_pass()
            await asyncio.sleep(_EVERY_S)

    async def one_pass(self) -> None:
        """Look once and note what was seen; a change is logged, and every 30 s what lasts."""
        self._asked_s = self._steady()
        try:
            await self._look()
        except Unavailable as error:
            self._note(str(error))
        else:
            self._note(None)
        finally:
            self._asked_s = None

    def _note(self, trouble: str | None) -> None:
        before, self._trouble = self._trouble, trouble
        now_s = self._steady()
        if trouble is None:
            if before is not None:
                away_s = round(now_s - self._away_s, 1)
                _log.info("dependency_there", dependency=self.name, after_s=away_s)
            self._away_s = now_s
        elif trouble != before or now_s - self._told_s >= _REPEAT_EVERY_S:
            self._told_s = now_s
            _log.warning("dependency_away", dependency=self.name, waiting_for=trouble)


class Readiness:
    """All that a replica's readiness rests on.

    Args:
        dependencies: What it cannot be ready without.
        started: Set once the schema is in place.
        clocks: Ours, compared with others'.
        degraded: Says what else is away.
    """

    def __init__(
        self,
        dependencies: Sequence[Dependency],
        started: asyncio.Event,
        clocks: Clocks,
        degraded: Callable[[], list[str]],
    ) -> None:
        self.started = started
        self._dependencies = dependencies
        self._clocks = clocks
        self._degraded = degraded
        self._clock_trouble: str | None = None

    @property
    def state(self) -> State:
        """The replica at this moment."""
        troubles = [*(one.trouble for one in self._dependencies), self._clocks.trouble()]
        reasons = [trouble for trouble in troubles if trouble]
        return State(self.started.is_set(), reasons, self._degraded())

    async def run(self) -> None:
        """Keep looking until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for dependency in self._dependencies:
                tasks.create_task(dependency.run())
            tasks.create_task(self._watch_clock())

    async def _watch_clock(self) -> None:
        while True:
            trouble = self._clocks.trouble()
            if trouble and not self._clock_trouble:
                _log.error("clock_wrong", why=trouble, effect="this replica takes no work")
            elif self._clock_trouble and not trouble:
                _log.info("clock_right", was=self._clock_trouble)
            self._clock_trouble = trouble
            await asyncio.sleep(_EVERY_S)
