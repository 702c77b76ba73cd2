"""A source outlives its deployment's revision only as long as something hangs on it."""

import asyncio

from bpa.control.ingest import Ingest
from bpa.postgres import fetch_all
from tests.eventually import eventually
from tests.integration.control.fleet import Fleet


class Source:
    """A queue that says nothing, and notes that it was closed."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.is_closed = False

    async def aclose(self) -> None:
        self.is_closed = True


class Waiting:
    """A feeder that waits for ever."""

    trouble = None

    def __init__(self, origin: object) -> None:
        self.origin = origin

    async def run(self) -> None:
        await asyncio.Event().wait()


async def test_the_source_of_a_replaced_revision_is_closed_once_nothing_hangs_on_it(fleet: Fleet):
    opened: list[Source] = []
    needed: set[Source] = set()

    def source(queue: str) -> Source:
        opened.append(Source(queue))
        needed.add(opened[-1])
        return opened[-1]

    ingest = Ingest("dev", "ns", fleet.deployments, source, Waiting, lambda one: one in needed)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(ingest.run())
        await eventually(lambda: len(opened) == 1)
        await fetch_all(fleet.pool, "update deployments set revision = revision + 1")
        ingest.deployments_changed()
        await eventually(lambda: len(opened) == 2)
        first, second = opened
        assert not first.is_closed, "what it received has yet to be settled"
        needed.discard(first)

        async def closed() -> bool:
            ingest.deployments_changed()
            return first.is_closed

        await eventually(closed)
        assert not second.is_closed
        running.cancel()
    await ingest.aclose()
    assert second.is_closed
