"""The broker: its queues by path, their journal, their clock and their alarms."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path

from bpa.errors import StartupError

from .config import NamespaceConfig
from .journal import FileJournal, MemoryJournal
from .queue import DEAD_LETTER_SUFFIX, Queue
from .records import Replay


class Broker:
    """Holds the queues of one namespace.

    Args:
        config: The entities.
        data_dir: Where messages are kept; None keeps them in memory.
        max_message_bytes: The largest message that is taken.

    Raises:
        StartupError: The data directory cannot be used.
    """

    def __init__(
        self, config: NamespaceConfig, data_dir: Path | None, max_message_bytes: int
    ) -> None:
        self.max_message_bytes = max_message_bytes
        self.queues: dict[str, Queue] = {}
        self.failure: asyncio.Future[OSError] = asyncio.get_running_loop().create_future()
        self.journal: MemoryJournal | FileJournal = (
            MemoryJournal() if data_dir is None else FileJournal(data_dir, self._fail)
        )
        self._config = config
        self._alarms: dict[Queue, tuple[int, asyncio.TimerHandle]] = {}
        for queue in config.queues:
            path = queue.name.lower()
            dead_path = path + DEAD_LETTER_SUFFIX
            dead = Queue(dead_path, queue, self.journal, self._alarm, None)
            self.queues[dead_path] = dead
            self.queues[path] = Queue(path, queue, self.journal, self._alarm, dead)

    async def start(self) -> None:
        """Take up what the journal kept.

        Raises:
            StartupError: The journal is damaged, or holds messages of a queue nobody configured.
        """
        if isinstance(self.journal, FileJournal):
            replay = await asyncio.to_thread(self.journal.read)
            self._restore(replay)
            self.journal.start(self._snapshot)

    async def aclose(self) -> None:
        """Write what is left and stop the clocks."""
        for _, handle in self._alarms.values():
            handle.cancel()
        self._alarms.clear()
        await self.journal.aclose()

    def find(self, path: str) -> Queue | None:
        """Return the queue or dead-letter queue of a path, whatever its case."""
        return self.queues.get(path.lower())

    @staticmethod
    def now_ms() -> int:
        """Return the wall clock in ms since the epoch."""
        return time.time_ns() // 1_000_000

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

    def _snapshot(self) -> list[bytes]:
        return [record for queue in self.queues.values() for record in queue.snapshot()]

    def _fail(self, error: OSError) -> None:
        if not self.failure.done():
            self.failure.set_result(error)

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
