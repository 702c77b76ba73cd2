"""A source outlives its deployment's revision only as long as something hangs on it."""

import asyncio

from msgspec.structs import replace

from bpa.control.ingest import Ingest
from bpa.postgres import fetch_all
from tests.eventually import eventually
from tests.integration.control.fleet import DEP_ID, DEPLOYMENT, Fleet


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


async def test_a_deployment_with_a_schema_that_is_refused_now_says_so_and_holds_up_no_other(
    fleet: Fleet,
):
    other = replace(DEPLOYMENT, environment="other", queue="other")
    await fleet.deployments.create(other)
    moved = "update deployments set env = 'dev', revision = revision + 1 where env = 'other'"
    await fetch_all(fleet.pool, moved)
    schema = '{"properties": {"a": {"pattern": "("}}}'
    spoil = "update deployments set target = jsonb_set(target, '{inputSchema}', %(schema)s::jsonb)"
    await fetch_all(fleet.pool, f"{spoil} where queue = 'invoices'", schema=schema)
    opened: list[Source] = []

    def source(queue: str) -> Source:
        opened.append(Source(queue))
        return opened[-1]

    ingest = Ingest("dev", "ns", fleet.deployments, source, Waiting, lambda _: False)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(ingest.run())
        await eventually(lambda: [one.queue for one in opened] == ["other"])
        (trouble,) = await eventually(ingest.troubles)
        assert f"{DEP_ID!r} is not fed" in trouble
        mend = "update deployments set target = target - 'inputSchema', revision = revision + 1"
        await fetch_all(fleet.pool, f"{mend} where queue = 'invoices'")

        async def mended() -> bool:
            ingest.deployments_changed()
            return not ingest.troubles()

        await eventually(mended)
        assert [one.queue for one in opened] == ["other", "invoices"]
        running.cancel()
    await ingest.aclose()
