"""Changes as server-sent events: told to everybody, with no gap, and never in the way of an end."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest

from bpa.control import changes
from bpa.control.changes import Change, Changes, Listener, Topic
from bpa.domain.executions import Outcome, OutcomeKind
from tests.eventually import eventually
from tests.integration.control.fleet import DEP_ID, Fleet
from tests.integration.control.rest import Rest, rest_over


@dataclass(frozen=True, slots=True)
class Event:
    name: str
    id: str
    data: dict[str, object]


@pytest.fixture
async def rest(fleet: Fleet) -> AsyncIterator[Rest]:
    async with rest_over(fleet) as rest:
        yield rest


async def told(response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    fields: dict[str, str] = {}
    async for line in response.content:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            fields[name] = value
        elif "event" in fields:
            yield Event(fields["event"], fields["id"], json.loads(fields["data"]))
            fields = {}


async def test_a_stream_begins_with_refetch_and_then_tells_what_changes(rest: Rest, fleet: Fleet):
    await fleet.register()
    async with rest.session.get("/v1/events") as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        events = told(response)
        assert (await anext(events)).name == "refetch"
        run_id, epoch = await fleet.running()
        seen: dict[str, dict[str, object]] = {}
        while not {"run", "node"} <= seen.keys():
            event = await anext(events)
            seen[event.name] = event.data
        assert seen["node"] == {"ids": ["node-1"]}
        expected = {"runId": run_id, "status": "running", "deploymentId": DEP_ID}
        assert seen["run"] == {"runs": [expected], "more": False}
        await fleet.runs.finish(run_id, epoch, Outcome(kind=OutcomeKind.COMPLETED))
        while (event := await anext(events)).name != "run":
            pass
        assert event.data["runs"] == [{**expected, "status": "completed"}]


async def test_a_stream_of_some_topics_tells_of_those_alone(rest: Rest, fleet: Fleet):
    async with rest.session.get("/v1/events?topic=node&topic=breaker") as response:
        events = told(response)
        await anext(events)
        await fleet.queued()
        await fleet.register()
        assert (await anext(events)) == Event("node", ANY_ID, {"ids": ["node-1"]})


class _AnyId(str):
    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str)

    def __hash__(self) -> int:
        return 0


ANY_ID = _AnyId()


async def test_who_has_missed_nothing_is_not_told_to_refetch(rest: Rest, fleet: Fleet):
    async with rest.session.get("/v1/events") as first:
        last = (await anext(told(first))).id
        headers = {"Last-Event-ID": last}
        async with rest.session.get("/v1/events", headers=headers) as again:
            await fleet.register()
            assert (await anext(told(again))).name == "node"
        async with rest.session.get("/v1/events", headers=headers) as late:
            assert (await anext(told(late))).name == "refetch"


async def test_an_open_stream_does_not_hold_up_the_end_and_ends_in_order(fleet: Fleet):
    async with rest_over(fleet) as rest:
        session = aiohttp.ClientSession(rest.url)
        response = await session.get("/v1/events")
        await anext(told(response))
        closing_at = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - closing_at < 1.5
    async with asyncio.timeout(2):
        await response.content.read()  # to the end of the stream: it was not cut off
    await session.close()


async def test_streams_have_a_number(rest: Rest, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(changes, "STREAMS_AT_MOST", 1)
    async with rest.session.get("/v1/events") as response:
        await anext(told(response))
        refused = await rest.get("/v1/events")
        assert (refused.status, refused.json["code"]) == (503, "unavailable")
        assert refused.headers["Retry-After"]


async def test_a_client_that_left_is_forgotten(rest: Rest, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(changes, "STREAMS_AT_MOST", 1)
    response = await rest.session.get("/v1/events")
    await anext(told(response))
    response.close()

    async def has_room() -> bool:
        async with rest.session.get("/v1/events") as again:
            return again.status == 200

    await eventually(has_room)


async def test_a_topic_that_is_none_is_a_problem(rest: Rest):
    assert (await rest.get("/v1/events?topic=weather")).status == 400


async def test_a_listener_that_reads_slowly_hears_that_it_missed_some():
    listener = Listener(frozenset({Topic.NODE}))
    for number in range(1, 100):
        listener.tell(Change(number, others={Topic.NODE: ("n",)}))
        listener.tell(Change(number, others={Topic.QUEUE: ("q",)}))
    heard = [await listener.next()]
    assert heard[0].is_gap
    assert heard[0].number <= 99


async def test_nobody_listens_nobody_looks(fleet: Fleet):
    service = Changes(fleet.pool, silent_after_s=6.0)
    looks = asyncio.ensure_future(service.run())
    with service.listening(frozenset(Topic)):
        async with asyncio.timeout(5):
            first = await service.looking()
    looks.cancel()
    await asyncio.wait({looks})
    assert first == 1
