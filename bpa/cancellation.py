"""Stop what was told to stop, where a library did not pass the word on.

CPython 3.11's ``asyncio.wait_for`` returns its result to a task that is cancelled in the very
moment in which the result is there, and the cancellation is lost (python/cpython#86296, mended in
3.12). The client of Valkey calls it for every command it sends, the pool of Postgres whenever a
connection has to be waited for, the SDK of Service Bus for every read. A service that makes its
passes for ever would go on for ever, and its process would have to be killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def cancellation_delivered() -> Iterator[None]:
    """Raise ``CancelledError`` at the end of the block if its task was cancelled within it.

    The block is run on by whoever swallowed the cancellation, so it may have done all it is there
    for: as with any cancellation, what it came to is unknown. An error of the block gives way too:
    a service that takes errors for an outage would try again.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError
