"""The broker: its queues by path, their journal, their clock and their alarms."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import structlog

from bpa.errors import StartupError

from . import entities, records
from .config import NamespaceConfig, QueueConfig
from .entities import Entity
from .journal import FileJournal, MemoryJournal
from .log_events import QUEUE_DELETED
from .queue import DEAD_LETTER_SUFFIX, Queue
from .records import Replay
from .refusals import EntityExists, EntityNotFound, Refused
from .tiers import Tier

_LONGEST_DELAY_S = 86_400.0

_log = structlog.get_logger(__name__)


class Broker:
    """Holds the queues of one namespace.

    Args:
        config: The queues that are there at the start.
        data_dir: Where messages are kept; None keeps them in memory.
        tier: What is taken.

    Raises:
        StartupError: The data directory cannot be used.
    """

    def __init__(self, config: NamespaceConfig, data_dir: Path | None, tier: Tier) -> None:
        self.tier = tier
        self.queues: dict[str, Queue] = {}
        self.entities: dict[str, Entity] = {}
        self.started_ms = self.now_ms()
        self.failure: asyncio.Future[OSError] = asyncio.get_running_loop().create_future()
        self.journal: MemoryJournal | FileJournal = (
            MemoryJournal() if data_dir is None else FileJournal(data_dir, self._fail)
        )
        self.on_deleted: Callable[[frozenset[str], Refused], None] = lambda _paths, _refusal: None
        """Called with the paths that are gone with a queue, and what their links are told."""
        self._config = config
        self._alarms: dict[Queue, tuple[int, asyncio.TimerHandle]] = {}
        self._idle_looks: dict[str, asyncio.TimerHandle] = {}

    async def start(self) -> None:
        """Take up what the journal kept, and merge the configuration with it.

        Raises:
            StartupError: The journal is damaged, or holds messages of a queue nobody names.
        """
        replay = Replay()
        if isinstance(self.journal, FileJournal):
            replay = await asyncio.to_thread(self.journal.read)
        self._merge(replay)
        self._restore(replay)
        if isinstance(self.journal, FileJournal):
            self.journal.start(self._snapshot)
        for path in list(self.entities):
            self._look_for_idleness(path)

    async def aclose(self) -> None:
        """Write what is left and stop the clocks."""
        for handle in (*self._idle_looks.values(), *(alarm[1] for alarm in self._alarms.values())):
            handle.cancel()
        self._alarms.clear()
        self._idle_looks.clear()
        await self.journal.aclose()

    def find(self, path: str) -> Queue | None:
        """Return the queue or dead-letter queue of a path, whatever its case."""
        return self.queues.get(path.lower())

    @staticmethod
    def now_ms() -> int:
        """Return the wall clock in ms since the epoch."""
        return time.time_ns() // 1_000_000

    # The life of a queue

    async def create(self, config: QueueConfig) -> Entity:
        """Make a queue; return when it is durable.

        Raises:
            EntityExists: There is one of this name.
        """
        path = config.name.lower()
        if path in self.entities:
            raise EntityExists(config.name)
        now_ms = self.now_ms()
        configured = entities.named(path, self._config.queues)
        entity = Entity(config, now_ms, now_ms, configured)
        self._add(path, entity)
        return await self._keep(path, entity)

    async def update(self, config: QueueConfig) -> Entity:
        """Give a queue other properties; return when they are durable.

        Raises:
            EntityNotFound: There is none of this name.
        """
        known = self.entity(config.name)
        path = known.config.name.lower()
        entity = replace(known, config=replace(config, name=known.config.name))
        entity = replace(entity, updated_ms=max(self.now_ms(), known.updated_ms + 1))
        for changed in (path, path + DEAD_LETTER_SUFFIX):
            self.queues[changed].reconfigure(entity.config)
        return await self._keep(path, entity)

    async def delete(self, name: str) -> None:
        """Delete a queue and its messages, and close its links; return when that is durable.

        Raises:
            EntityNotFound: There is none of this name.
        """
        self._drop(self.entity(name))
        await self._durable()

    def _drop(self, entity: Entity) -> None:
        path = entity.config.name.lower()
        paths = frozenset((path, path + DEAD_LETTER_SUFFIX))
        self.on_deleted(paths, EntityNotFound(entity.config.name))
        del self.entities[path]
        # In this order: a journal torn in between has the queue still, without dead letters.
        for gone in sorted(paths, reverse=True):
            queue = self.queues.pop(gone)
            queue.discard()
            self._silence(queue)
            self.journal.append(records.deleted(gone))
        self._look_for_idleness(path)

    def entity(self, name: str) -> Entity:
        """Return what is known of a queue.

        Raises:
            EntityNotFound: There is none of this name.
        """
        entity = self.entities.get(name.lower())
        if entity is None:
            raise EntityNotFound(name)
        return entity

    def _add(self, path: str, entity: Entity) -> None:
        dead_path = path + DEAD_LETTER_SUFFIX
        dead = Queue(dead_path, entity.config, self.journal, self._alarm, None)
        self.entities[path] = entity
        self.queues[dead_path] = dead
        self.queues[path] = Queue(path, entity.config, self.journal, self._alarm, dead)

    async def _keep(self, path: str, entity: Entity) -> Entity:
        self.entities[path] = entity
        self._look_for_idleness(path)
        self.journal.append(records.entity(path, entity.encoded()))
        await self._durable()
        return entity

    async def _durable(self) -> None:
        done = asyncio.get_running_loop().create_future()
        self.journal.when_durable(partial(_resolve, done))
        await asyncio.wait((done, self.failure), return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            raise self.failure.result()

    # Starting again

    def _merge(self, replay: Replay) -> None:
        try:
            kept = {path: entities.decode(data) for path, data in replay.entities.items()}
        except ValueError as error:
            raise StartupError(f"the data directory describes a queue wrongly: {error}") from error
        merged = entities.merge(kept, self._config.queues, self.now_ms())
        for path, entity in merged.items():
            self._add(path, entity)

    def _restore(self, replay: Replay) -> None:
        for path, kept in replay.queues.items():
            if path not in self.queues and kept.messages:
                raise StartupError(
                    f"the data directory holds {len(kept.messages)} messages of {path!r}, which "
                    "the configuration does not name; name it, or use another directory"
                )
        now_ms = self.now_ms()
        for path, queue in self.queues.items():
            if path in replay.queues:
                queue.restore(replay.queues[path], now_ms)

    def _snapshot(self) -> Iterator[bytes]:
        described = [records.entity(path, e.encoded()) for path, e in self.entities.items()]
        return chain(described, *[queue.snapshot() for queue in self.queues.values()])

    def _fail(self, error: OSError) -> None:
        if not self.failure.done():
            self.failure.set_result(error)

    # Time

    def _look_for_idleness(self, path: str) -> None:
        """Delete a queue that has been idle for too long, or look again when it may have been.

        Idle is a queue without sends, receives, updates, scheduled messages and browsing, as the
        section on idleness of Microsoft's "Message expiration" says; with its dead letters. A
        receiver that waits and a message that is locked are receives that have not ended.
        """
        earlier = self._idle_looks.pop(path, None)
        if earlier is not None:
            earlier.cancel()
        entity = self.entities.get(path)
        if entity is None or entity.config.auto_delete_s is None:
            return
        idle_s = (self.now_ms() - self._last_used_ms(path, entity)) / 1000
        left_s = entity.config.auto_delete_s - idle_s
        if left_s <= 0:
            _log.info(QUEUE_DELETED, queue=entity.config.name, idle_s=idle_s)
            self._drop(entity)
            return
        look = partial(self._look_for_idleness, path)
        delay_s = min(left_s, _LONGEST_DELAY_S)
        self._idle_looks[path] = asyncio.get_running_loop().call_later(delay_s, look)

    def _last_used_ms(self, path: str, entity: Entity) -> int:
        queues = self.queues[path], self.queues[path + DEAD_LETTER_SUFFIX]
        if any(queue.in_use for queue in queues):
            return self.now_ms()
        accessed = (queue.accessed_ms or 0 for queue in queues)
        return max(self.started_ms, entity.updated_ms, *accessed)

    def _alarm(self, queue: Queue, at_ms: int) -> None:
        armed = self._alarms.get(queue)
        if armed is not None:
            if armed[0] <= at_ms:
                return
            armed[1].cancel()
        delay_s = max(0, at_ms - self.now_ms()) / 1000
        handle = asyncio.get_running_loop().call_later(delay_s, partial(self._ring, queue))
        self._alarms[queue] = (at_ms, handle)

    def _ring(self, queue: Queue) -> None:
        del self._alarms[queue]
        queue.expire(self.now_ms())

    def _silence(self, queue: Queue) -> None:
        armed = self._alarms.pop(queue, None)
        if armed is not None:
            armed[1].cancel()


def _resolve(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
