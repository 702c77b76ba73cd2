"""Group commit without waiting: what arrives while one execution runs goes into the next.

An idle batcher executes at once, a busy one amortises; there is no timer and no setting to tune.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from bpa.errors import Unavailable

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Turn single submissions into batched executions, first come, first served.

    The executions run in a task of the batcher's own, in the context in which it was built, so
    that neither the cancellation nor the log fields of one submitter reach another. That task is
    never lost: every way in which it can end reaches a waiter.

    Args:
        execute: Takes the items of one batch and returns one result for each, in their order. An
            ``Exception`` in a slot is raised for that submitter alone; one that is raised reaches
            every submitter of the batch.
        max_batch: The most items that one execution gets.
    """

    def __init__(
        self, execute: Callable[[list[T]], Awaitable[list[R | Exception]]], *, max_batch: int = 64
    ) -> None:
        self._execute = execute
        self._max_batch = max_batch
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._closed = False
        self._context = contextvars.copy_context()

    async def submit(self, item: T) -> R:
        """Have ``item`` executed with its contemporaries and return its own result.

        A submitter that is cancelled before its batch starts is left out of it; later the item is
        executed all the same and its result dropped.

        Raises:
            Unavailable: The batcher was closed.
            Exception: Whatever ``execute`` raised, or returned for this item.
        """
        if self._closed:
            raise Unavailable("This process is shutting down; try again elsewhere.")
        loop = asyncio.get_running_loop()
        result: asyncio.Future[R] = loop.create_future()
        self._waiting.append((item, result))
        if self._worker is None:
            self._worker = loop.create_task(self._work(), context=self._context)
        return await result

    async def aclose(self) -> None:
        """Refuse newcomers and return when all that was submitted has been executed."""
        self._closed = True
        if self._worker is not None:
            await asyncio.wait({self._worker})

    async def _work(self) -> None:
        batch: list[tuple[T, asyncio.Future[R]]] = []
        try:
            while self._waiting:
                batch = self._take()
                if batch:
                    await self._run(batch)
        finally:
            # Reached with something left only when the loop itself is being torn down.
            for _, result in [*batch, *self._waiting]:
                result.cancel()
            self._waiting.clear()
            self._worker = None

    def _take(self) -> list[tuple[T, asyncio.Future[R]]]:
        count = min(self._max_batch, len(self._waiting))
        taken = [self._waiting.popleft() for _ in range(count)]
        return [(item, result) for item, result in taken if not result.done()]

    async def _run(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        outcomes: list[R | Exception]
        try:
            outcomes = await self._execute([item for item, _ in batch])
            if len(outcomes) != len(batch):
                raise RuntimeError(f"{len(outcomes)} results for a batch of {len(batch)} items")
        except Exception as error:  # noqa: BLE001 - it is not swallowed: each submitter gets it
            outcomes = [error] * len(batch)
        for (_, result), outcome in zip(batch, outcomes, strict=True):
            if result.done():
                continue
            if isinstance(outcome, Exception):
                result.set_exception(outcome)
            else:
                result.set_result(outcome)
