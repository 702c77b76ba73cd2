"""How paths with verbs are routed and shown."""

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpa.control.rest.edge import Edge
from bpa.control.rest.verbs import documented, routed, verbs_of

VERBS = frozenset({"register", "heartbeat", "complete", "version"})


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/nodes:register", "/v1/nodes/:register"),
        ("/v1/nodes/n.1:heartbeat", "/v1/nodes/n.1/:heartbeat"),
        ("/v1/nodes/host:8080:heartbeat", "/v1/nodes/host:8080/:heartbeat"),
        ("/v1/runs/018f:complete", "/v1/runs/018f/:complete"),
        ("/v1/agents/a\nb:version", "/v1/agents/a\nb/:version"),
    ],
)
def test_a_verb_becomes_a_segment_of_its_own(path, expected):
    assert routed(path, VERBS) == expected
    assert documented(expected) == path


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/v1/runs",
        "/v1/runs/018f/steps",
        "/v1/runs/018f:explode",
        "/v1/nodes/host:8080",
        "/v1/nodes/host:8080/complete",
        "/v1/runs/018f:complete/",
        "/v1/runs/018f:Complete",
        "/v1/runs/018f/:complete",
        ":complete",
        "/:complete",
    ],
)
def test_a_path_without_a_verb_of_ours_stays_as_it_is(path):
    assert routed(path, VERBS) == path


def test_the_verbs_are_those_that_routes_end_in():
    paths = ["/v1/nodes/:register", "/v1/runs/{run_id:str}/:complete", "/v1/runs/{run_id:str}", "/"]
    assert verbs_of(paths) == {"register", "complete"}


def test_only_the_last_segment_of_a_documented_path_is_a_verb():
    assert documented("/v1/runs/{run_id}/:complete") == "/v1/runs/{run_id}:complete"
    assert documented("/v1/:odd/steps") == "/v1/:odd/steps"


@given(st.text(st.characters(exclude_characters="/:"), min_size=1), st.sampled_from(sorted(VERBS)))
def test_any_id_comes_through_whole(name, verb):
    assert (
        re.fullmatch(r"/v1/runs/(.*)/:\w+", routed(f"/v1/runs/{name}:{verb}", VERBS), re.S)[1]
        == name
    )


async def through_the_edge(path: str, query: bytes = b"") -> tuple[list[str], list[Any]]:
    """Return the paths that reached the application, and what was sent without it."""
    reached: list[str] = []
    sent: list[Any] = []

    async def app(scope, receive, send):
        reached.append(scope["path"])

    async def receive():
        return {"type": "http.request"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": b"/raw",
        "query_string": query,
        "headers": [],
    }
    await Edge(app, VERBS)(scope, receive, send)
    return reached, sent


async def test_the_edge_passes_rewritten_paths_on():
    assert await through_the_edge("/v1/nodes:register") == (["/v1/nodes/:register"], [])
    assert await through_the_edge("/v1/runs", b"cursor=%2500") == (["/v1/runs"], [])


@pytest.mark.parametrize(("path", "query"), [("/v1/\0", b""), ("/v1/runs", b"cursor=%00")])
async def test_the_edge_refuses_nul(path, query):
    reached, [start, body] = await through_the_edge(path, query)
    assert not reached
    assert start["status"] == 400
    assert dict(start["headers"])[b"content-type"] == b"application/problem+json"
    assert msgspec.json.decode(body["body"])["instance"] == "/raw"
