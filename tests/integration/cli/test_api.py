"""The client of REST, against a server that answers in every way."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from bpa.cli.api import Api, open_api_at
from bpa.errors import BpaError, Conflict, InvalidRequest, NotAllowed, NotFound, Unavailable
from bpa.words import segment

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def talking_to(handler: Handler) -> AsyncIterator[Api]:
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        async with open_api_at(f"http://{host}:{port}/") as api:
            yield api
    finally:
        await runner.cleanup()


def answering(status: int, text: str) -> Handler:
    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status, text=text)

    return handler


async def test_a_document_comes_back_as_its_type_and_queries_of_none_are_left_out():
    asked = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        asked.append((request.method, str(request.rel_url)))
        return web.json_response({"a": 1})

    async with talking_to(handler) as api:
        assert await api.get("/v1/things", dict[str, int], status="x y", cursor=None) == {"a": 1}
    assert asked == [("GET", "/v1/things?status=x+y")]


async def test_a_post_carries_json_and_an_empty_answer_is_none():
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        assert request.content_type == "application/json"
        assert await request.json() == {"detail": "d"}
        return web.Response(status=204)

    async with talking_to(handler) as api:
        await api.post("/v1/runs/1:cancel", {"detail": "d"}, type(None))


@pytest.mark.parametrize(
    ("status", "kind", "exit_code"),
    [
        (400, InvalidRequest, 2),
        (403, NotAllowed, 4),
        (404, NotFound, 3),
        (409, Conflict, 5),
        (412, Conflict, 5),
        (422, InvalidRequest, 2),
        (500, Unavailable, 6),
        (503, Unavailable, 6),
    ],
)
async def test_a_problem_becomes_the_error_with_its_exit_code(status, kind, exit_code):
    async with talking_to(answering(status, '{"title": "t", "detail": "why"}')) as api:
        with pytest.raises(BpaError, match="why") as caught:
            await api.get("/v1/things", object)
    assert type(caught.value) is kind
    assert caught.value.exit_code == exit_code


async def test_every_wrong_field_is_told():
    problem = '{"detail": "two are wrong", "errors": ["a: missing", "b: too long"]}'
    async with talking_to(answering(400, problem)) as api:
        with pytest.raises(InvalidRequest) as caught:
            await api.post("/v1/things", {}, object)
    assert str(caught.value).splitlines() == ["two are wrong", "a: missing", "b: too long"]


@pytest.mark.parametrize("text", ["<html>", "[]", "null", "\udcff", '{"detail": 7, "errors": 1}'])
async def test_an_error_that_is_no_problem_document_still_says_what_was_asked(text):
    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=404, body=text.encode("utf-8", "surrogateescape"))

    async with talking_to(handler) as api:
        with pytest.raises(NotFound, match=r"control answered 404 to GET /v1/things|7"):
            await api.get("/v1/things", object)


@pytest.mark.parametrize("text", ["<html>", '{"a": "text"}', ""])
async def test_what_is_no_answer_of_control_is_said_to_be_none(text):
    async with talking_to(answering(200, text)) as api:
        with pytest.raises(Unavailable, match="is not control, or another version"):
            await api.get("/v1/things", dict[str, int])


async def test_where_nobody_listens_the_address_is_named():
    async with talking_to(answering(200, "")) as api:
        url = api._url
    async with open_api_at(url) as api:
        with pytest.raises(Unavailable, match=f"control does not answer at {url}"):
            await api.get("/v1/things", object)


def test_a_name_stays_one_segment_of_a_path():
    assert segment("../a b/ü") == "..%2Fa%20b%2F%C3%BC"
