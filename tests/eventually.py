"""Wait until something becomes true, without a fixed sleep in any test."""

import asyncio
import contextlib
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(
    probe: Callable[[], T | Awaitable[T]], *, within_s: float = 10.0, every_s: float = 0.02
) -> T:
    """Call ``probe`` until it returns something true, and return that.

    An ``AssertionError`` inside the probe counts as "not yet"; the last one is raised when
    ``within_s`` seconds have passed, so that the failure says what was still untrue.
    """
    deadline = time.monotonic() + within_s
    while True:
        failure: AssertionError | None = None
        value: T | None = None
        try:
            outcome = probe()
            value = await outcome if inspect.isawaitable(outcome) else outcome
        except AssertionError as error:
            failure = error
        if failure is None and value:
            return value
        if time.monotonic() > deadline:
            raise failure or AssertionError(f"{probe} was not true within {within_s} s: {value!r}")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(every_s):
                await asyncio.Event().wait()
