"""An event loop whose time jumps to the next timer, and processes in it that can be frozen."""

import asyncio
import collections
import contextvars
import selectors
from collections.abc import Mapping
from dataclasses import dataclass, field

PROCESS: contextvars.ContextVar["Process | None"] = contextvars.ContextVar("process", default=None)
"""Whose code runs; tasks and timers inherit it."""


async def elapse(seconds: float) -> None:
    """Let virtual time pass; the clock on the wall does not wait.

    Raises:
        RuntimeError: The loop is one whose time is real.
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise RuntimeError("only virtual time can elapse; wait for an event")
    over = asyncio.Event()
    timer = loop.call_later(seconds, over.set)
    try:
        await over.wait()
    finally:
        timer.cancel()


@dataclass(slots=True, eq=False)
class Process:
    """What lives and dies as one; while it is frozen nothing of it runs, and its timers pile up."""

    frozen: bool = False
    waiting: list[asyncio.Handle] = field(default_factory=list)

    def context(self) -> contextvars.Context:
        """Return a context in which to start the process's first task."""
        context = contextvars.copy_context()
        context.run(PROCESS.set, self)
        return context


class _Ready(collections.deque[asyncio.Handle]):
    """The loop's queue of what runs next, without what belongs to a frozen process."""

    def append(self, handle: asyncio.Handle) -> None:
        process = handle._context.get(PROCESS)
        if process is not None and process.frozen:
            process.waiting.append(handle)
        else:
            super().append(handle)


class _NoWaiting(selectors.BaseSelector):
    """Waits by moving the loop's clock."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits, and nothing is left to happen")
        self.now_s += max(timeout, 0.0)
        return []

    def register(self, fileobj: object, events: int, data: object = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, events, data)

    def unregister(self, fileobj: object) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, 0, None)

    def get_map(self) -> Mapping[object, selectors.SelectorKey]:
        return {}

    def get_key(self, fileobj: object) -> selectors.SelectorKey:
        raise KeyError(fileobj)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs what would take minutes in milliseconds, in the same order every time; without I/O."""

    def __init__(self) -> None:
        self._waits = _NoWaiting()
        super().__init__(self._waits)
        self._ready = _Ready()
        self._nothing = asyncio.Handle(lambda: None, (), self)

    def time(self) -> float:
        return self._waits.now_s

    def freeze(self, process: Process) -> None:
        """Let nothing of a process run until it is thawed."""
        process.frozen = True
        for nth, handle in enumerate(self._ready):
            if handle._context.get(PROCESS) is process:
                process.waiting.append(handle)
                self._ready[nth] = self._nothing  # the loop has counted on so many

    def thaw(self, process: Process) -> None:
        """Let a process go on, with all that has come due meanwhile."""
        process.frozen = False
        waiting, process.waiting = process.waiting, []
        for handle in waiting:
            self._ready.append(handle)
