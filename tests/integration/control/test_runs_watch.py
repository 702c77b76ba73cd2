"""Runs and operations are followed by the stream of changes, and by looking where there is none."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from bpa.cli import news, operating, runs_watch
from bpa.cli.api import Api, open_api_at
from bpa.cli.events import Event, read_events
from bpa.control import changes as told_changes
from bpa.control.operating import Operating
from bpa.control.rest.operation_schemas import Operation
from bpa.control.rest.run_schemas import RunSummary
from bpa.domain.executions import Outcome, OutcomeKind
from bpa.errors import InvalidRequest, NotFound, Unavailable
from tests.chaos.wires import Wire
from tests.eventually import eventually
from tests.integration.cli.test_api import Handler, answering, talking_to
from tests.integration.control.fleet import DEP_ID, Fleet
from tests.integration.control.rest import rest_over

MOVED = '{"runs": [{"runId": "r", "status": "s", "deploymentId": "d"}], "more": false}'
COMPLETED = Outcome(kind=OutcomeKind.COMPLETED)


class Counted(Api):
    """Counts the looks."""

    looks = 0

    async def get(self, path, kind, **query):
        self.looks += 1
        return await super().get(path, kind, **query)


@asynccontextmanager
async def watching(
    api: Api, *run_ids: str, deployment: str | None = None, follow: bool = False
) -> AsyncIterator[tuple[AsyncIterator[RunSummary], news.News]]:
    told = runs_watch.news_of(api, run_ids, deployment)
    looks = runs_watch._Looks(api, run_ids, deployment)
    async with told.heard(), aclosing(runs_watch.changes(looks, told, follow=follow)) as runs:
        yield runs, told


async def test_a_change_is_heard_of_and_nothing_is_asked_for_between_changes(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(news, "_LOOK_EVERY_S", 60.0)
    await fleet.register()
    run_id, other = await fleet.queued(1), await fleet.queued(2)
    async with rest_over(fleet) as rest:
        api = Counted(rest.session, rest.url)
        async with watching(api, run_id) as (runs, told):
            assert (await anext(runs)).status == "queued"
            await eventually(lambda: told.hears)
            epoch = await fleet.granted(run_id)
            assert (await anext(runs)).status == "offered"
            looks = api.looks
            listener = rest.services.changes.listening(frozenset(told_changes.Topic))
            with listener as heard:
                await fleet.granted(other)
                await heard.next()
            assert api.looks <= looks + 1, "what concerns no run of ours is not looked at"
            await fleet.leases.acknowledge(run_id, epoch)
            await fleet.runs.finish(run_id, epoch, COMPLETED)
            assert [run.status async for run in runs] == ["completed"]


async def test_runs_of_a_deployment_are_heard_of_as_they_come_and_end(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(news, "_LOOK_EVERY_S", 60.0)
    await fleet.register()
    async with (
        rest_over(fleet) as rest,
        open_api_at(rest.url) as api,
        watching(api, deployment=DEP_ID, follow=True) as (runs, told),
    ):
        following = asyncio.ensure_future(anext(runs))
        await eventually(lambda: told.hears)
        run_id, epoch = await fleet.running(1)
        assert (await following).run_id == run_id
        await fleet.runs.finish(run_id, epoch, COMPLETED)
        while (run := await anext(runs)).status != "completed":
            pass
        assert run.run_id == run_id


async def test_a_stream_that_is_cut_is_said_to_be_and_taken_up_again(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(news, "_LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(news, "_AGAIN_S", 0.05)
    await fleet.register()
    run_id = await fleet.queued(1)
    async with rest_over(fleet) as rest:
        wire = Wire([rest.url.removeprefix("http://")])
        async with (
            wire.laid(),
            open_api_at(f"http://{wire.address}") as api,
            watching(api, run_id) as (runs, told),
        ):
            assert (await anext(runs)).status == "queued"
            await eventually(lambda: told.hears)
            with monkeypatch.context() as full:
                full.setattr(told_changes, "STREAMS_AT_MOST", 0)
                await wire.cut()
                await eventually(lambda: not told.hears)
                wire.mend()
                epoch = await fleet.granted(run_id)
                assert (await anext(runs)).status == "offered", "found by looking"
                assert not told.hears
            await eventually(lambda: told.hears)
            await fleet.leases.acknowledge(run_id, epoch)
            await fleet.runs.finish(run_id, epoch, COMPLETED)
            assert [run.status async for run in runs][-1] == "completed"
    said = capsys.readouterr().err
    assert said.count("looking every 0.05 s meanwhile") == 1
    assert said.count("control streams its changes again") == 1


async def test_an_operation_is_looked_at_as_it_moves_and_not_between(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(news, "_LOOK_EVERY_S", 60.0)
    await fleet.register()
    run_ids = [await fleet.queued(number) for number in (1, 2)]
    async with rest_over(fleet) as rest:
        api = Counted(rest.session, rest.url)
        asked = {"action": "cancel", "runs": {"q": "status:queued"}}
        operation = await api.post("/v1/operations", asked, Operation)
        told = operating.news_of(api, operation)
        async with told.heard():
            watching = asyncio.ensure_future(operating.until_ended(api, operation, told))
            await eventually(lambda: told.hears)
            works = Operating(fleet.pool, fleet.runs, rest.services.replaying, lambda: None)
            assert await works.one_pass() == len(run_ids)
            ended = await watching
        assert (ended.state, ended.counts) == ("done", {"cancelled": 2})
        assert api.looks <= 3, "the stream's first word, and what moved"


@pytest.mark.parametrize(
    "answer",
    [
        answering(404, "{}"),
        answering(503, "{}"),
        answering(400, "{}"),
        answering(200, "no stream"),
    ],
)
async def test_what_streams_no_changes_is_unavailable_or_refuses(answer: Handler):
    async with talking_to(answer) as api:
        with pytest.raises((Unavailable, NotFound, InvalidRequest)):
            async with api.events("run", ""):
                raise AssertionError("it was opened")


async def lines(*given: bytes) -> AsyncIterator[bytes]:
    for line in given:
        yield line


async def test_events_are_read_as_they_are_written_and_comments_left_out():
    stream = b"retry: 2000\n\n:\n\nevent: run\nid: e-1\ndata: {\ndata:}\n\nevent: cut\ndata: x"
    events = [event async for event in read_events(lines(*stream.splitlines(keepends=True)))]
    assert events == [Event("run", "e-1", "{\n}")]
    with pytest.raises(Unavailable, match="another version"):
        [event async for event in read_events(lines(b"data: \xff\n", b"\n"))]


@pytest.mark.parametrize(
    ("watched", "deployment", "data", "concerns"),
    [
        ((), None, MOVED, 1),
        ((), "e", MOVED, 0),
        ((), "d", MOVED, 1),
        (("q",), None, MOVED, 0),
        (("q", "r"), None, MOVED, 1),
        (("q",), None, '{"runs": [], "more": true}', 1),
        (("q",), None, '{"of a later release": 1}', 1),
    ],
)  # fmt: skip
async def test_an_event_that_concerns_no_run_of_ours_is_known_as_such(
    watched: tuple[str, ...], deployment: str | None, data: str, concerns: int
):
    async with talking_to(answering(404, "")) as api:
        told = runs_watch.news_of(api, watched, deployment)
        assert told._concerns(data) == bool(concerns)
