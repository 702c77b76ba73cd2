"""What nobody should send, down to the bytes: each is refused at once, and nobody else waits."""

import asyncio
import base64
import gzip
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs
from yarl import URL

from bpa.control.rest import bodies, edge
from bpa.web_server import HEAD_BYTES_MAX
from tests.eventually import eventually
from tests.integration.control.desk import Desk, desk_of
from tests.integration.control.fleet import DEP_ID, Fleet
from tests.integration.control.rest import PROBLEM, Rest, rest_over

JSON = {"Content-Type": "application/json"}
RUN = "018f0000-0000-8000-8000-000000000000"
BEAT = "/v1/nodes/node-1:heartbeat"
PULL = {"nodeId": "node-1", "bootId": "boot-1"}
HEAD = f"POST {BEAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()


@pytest.fixture
async def rest(fleet: Fleet) -> AsyncIterator[Rest]:
    async with rest_over(fleet) as rest:
        yield rest


def read(answer: bytes) -> tuple[int, dict[str, str], Any]:
    """Return status, headers and problem of an answer in bytes."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert headers["content-type"] == PROBLEM, answer[:500]
    return int(first.split()[1]), headers, json.loads(body[: int(headers["content-length"])])


async def test_a_body_is_not_read_more_kindly_than_it_is_documented(rest: Rest):
    for asked, told in (
        ({**PULL, "max": "5"}, "body.max: Expected `int`, got `str`"),
        ({**PULL, "max": True}, "body.max: Expected `int`, got `bool`"),
        ({**PULL, "max": 1.5}, "body.max: Expected `int`, got `float`"),
        ({**PULL, "waitS": "1"}, "body.waitS: Expected `float`, got `str`"),
        ({**PULL, "bootId": None}, "body.bootId: Expected `str`, got `null`"),
    ):
        answer = await rest.post("/v1/lease/pull", asked)
        assert (answer.status, answer.json["errors"]) == (400, [told]), answer.text
    whole = await rest.post("/v1/lease/pull", {**PULL, "max": 1.0})  # an integer, in JSON Schema
    assert whole.status == 404


@pytest.mark.parametrize(
    "body",
    [
        b'{"bootId": "a", "bootId": "b"}',
        b'{"bootId": "a", "b\\u006fotId": "b"}',
        b'{"bootId": "a", "x": [{"y": {"": 1, "": 2}}]}',
    ],
)
async def test_a_member_that_comes_twice_is_not_chosen_from(rest: Rest, body: bytes):
    answer = await rest.post(BEAT, data=body, headers=JSON)
    assert (answer.status, answer.headers["Content-Type"]) == (400, PROBLEM)
    assert "twice" in answer.json["detail"]


async def test_names_and_texts_with_colons_and_quotes_are_no_members(rest: Rest):
    body = json.dumps({"bootId": '":"\\', "a:b": ['x":{"y":1'], "\\": "\\\\", '"': {"": ":"}})
    assert (await rest.post(BEAT, data=body, headers=JSON)).status == 404


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip", "nonsense"])
async def test_a_body_that_would_have_to_be_unpacked_is_not(rest: Rest, encoding: str):
    bomb = gzip.compress(b"0" * 10_000_000)
    headers = {**JSON, "Content-Encoding": encoding}
    answer = await rest.post(BEAT, data=bomb, headers=headers, skip_auto_headers=["Accept"])
    assert (answer.status, answer.headers["Content-Type"]) == (415, PROBLEM)
    assert answer.headers["Accept-Encoding"] == "identity"


async def test_a_body_declared_too_large_is_refused_before_it_comes(rest: Rest):
    answer = await rest.raw(HEAD + b"Content-Length: 104857600\r\n\r\n")
    status, _, problem = read(answer)
    assert (status, problem["code"]) == (413, "request_entity_too_large")


async def test_a_body_without_an_end_is_cut_off(rest: Rest):
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    assert read(await rest.raw(chunked, *[piece] * 100))[0] == 413


async def test_a_body_that_stops_midway_is_not_waited_for(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(edge, "BODY_S", 0.01)
    for length in (b"Content-Length: 10", b"Transfer-Encoding: chunked"):
        status, _, problem = read(await rest.raw(HEAD + length + b"\r\n\r\n"))
        assert (status, problem["code"]) == (408, "request_timeout")


async def test_a_client_that_leaves_amid_its_body_is_no_fault_of_the_server(rest: Rest):
    url, before = URL(rest.url), len(asyncio.all_tasks())
    with capture_logs() as logs:
        _, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(HEAD + b"Content-Length: 10\r\n\r\n{")
        await writer.drain()
        await eventually(lambda: len(asyncio.all_tasks()) > before)
        writer.close()
        await writer.wait_closed()
        await eventually(lambda: len(asyncio.all_tasks()) <= before)
    assert not [line for line in logs if line["event"] == "request_failed"]


@pytest.mark.parametrize(
    "lines",
    [
        b"X: " + b"a" * 20_000_000,
        b"a" * 20_000_000,
        b"\r\n".join(b"X-%d: a" % number for number in range(20_000)),
        b"X: " + b"a" * HEAD_BYTES_MAX,
    ],
    ids=["value", "name", "many", "slightly"],
)
async def test_headers_have_a_limit(rest: Rest, lines: bytes):
    request = b"GET /v1/agents HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n\r\n"
    status, headers, _ = read(await rest.raw(request))
    assert (status, headers["connection"]) == (431, "close")
    assert (await rest.get("/livez", headers={"X": "a" * 30_000})).status == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/agents/" + "a" * 10_000, 414),
        ("/v1/agents/" + "%61" * 2_000, 414),
        ("/v1/agents/" + "a" * 100_000, 400),  # the parser gives up
        ("/v1/agents/%", 404),
        ("/v1/agents/%zz", 404),
        ("/v1/agents/%C0%AF", 404),
        ("/v1/agents/..", 404),
        ("/v1/../livez", 404),
        ("/v1/agents/%2e%2e/x", 404),
        ("/v1/agents/a%2Fb", 404),
        ("/v1/agents/a%5Cb", 404),
        ("/v1/runs/:cancel", 404),
        ("/v1/runs:cancel", 404),
        ("/v1/runs/:", 404),
        ("/v1/runs/::cancel", 405),
        ("/v1/runs/x:cancel:cancel", 405),
        ("/v1/runs/x%3Acancel", 405),
        ("/v1/runs/x/:cancel", 405),
        ("/v1/runs/x:CANCEL", 404),
        ("*", 404),
        ("/v1/agents/a b", 400),
        ("/v1/agents/\x7f", 400),
    ],
)
async def test_an_odd_path_leads_nowhere(rest: Rest, path: str, status: int):
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    assert read(await rest.raw(request))[0] == status


@pytest.mark.parametrize("method", ["PATCH", "PROPFIND", "CONNECT", "QUERY"])
async def test_a_method_that_is_not_there_is_told_which_ones_are(rest: Rest, method: str):
    request = f"{method} /v1/agents HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    status, headers, _ = read(await rest.raw(request))
    assert status == 405
    assert {one.strip() for one in headers["allow"].split(",")} == {"GET", "POST", "OPTIONS"}


async def test_options_name_every_method_of_a_path(rest: Rest):
    answer = await rest.request("OPTIONS", "/v1/agents")
    assert answer.headers["Allow"] == "GET, OPTIONS, POST"


@pytest.mark.parametrize(
    "request_",
    [b"GETT / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"],
    ids=["method", "http2", "tls"],
)
async def test_what_is_no_http_is_told_so_as_a_problem(rest: Rest, request_: bytes):
    status, _, problem = read(await rest.raw(request_))
    assert (status, problem["detail"]) == (400, "this is no HTTP request")


@pytest.mark.parametrize(
    ("tag", "status"),
    [
        (b'"', 412),
        (b"", 412),
        (b'"0"', 412),
        (b'"1", "2"', 412),
        (b'*, "1"', 412),
        (b"\xff\xfe", 412),
        (b'"' + b"1" * 300 + b'"', 400),
        (b'*\r\nIf-Match: "9"', 400),
    ],
)
async def test_a_tag_that_is_none_guards_all_the_same(
    rest: Rest, fleet: Fleet, tag: bytes, status: int
):
    head = f"POST /v1/deployments/{DEP_ID}:pause HTTP/1.1\r\nHost: localhost\r\n"
    request = head.encode() + b"Content-Length: 0\r\nIf-Match: " + tag + b"\r\n\r\n"
    assert read(await rest.raw(request))[0] == status
    assert "paused" not in (await fleet.deployments.get(DEP_ID))["status"]


@pytest.mark.parametrize("header", ["Content-Type", "Idempotency-Key", "Content-Encoding"])
async def test_a_header_that_comes_twice_is_not_chosen_from(rest: Rest, header: str):
    lines = f"{header}: a\r\n{header}: b\r\n".encode()
    head = b"POST /v1/agents HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
    status, _, problem = read(await rest.raw(head + lines + b"\r\n{}"))
    assert (status, header.lower() in problem["detail"]) == (400, True)


@pytest_asyncio.fixture
async def desk(fleet: Fleet, database: str, valkey_url: str) -> AsyncIterator[Desk]:
    async with desk_of(fleet, database, valkey_url) as desk:
        yield desk


async def test_a_cursor_that_was_tampered_with_is_refused_or_leads_somewhere(desk: Desk):
    for _ in range(2):
        await desk.dead()
    for path in ("/v1/runs", "/v1/dead-letters", "/v1/costs?by=run", "/v1/costs?by=attempt"):
        join = "&" if "?" in path else "?"
        page = (await desk.rest.get(f"{path}{join}limit=1")).json
        cursor = page["nextCursor"]
        inner = base64.urlsafe_b64decode(cursor)
        odd = [b"", inner * 9, inner[::-1], inner.replace(b"|", b""), b"\xff" * 9, b"|", b":"]
        odd += [inner.replace(b"-", b"9"), inner.replace(b"0", b"9"), inner + b"|x", b"9" * 900]
        written = [base64.urlsafe_b64encode(one).decode() for one in odd]
        written += [cursor[:place] + "Z" + cursor[place + 1 :] for place in range(len(cursor))]
        written += [cursor[:-1], cursor + "=", cursor + "A", "é", "%", "null", "=" * 5000]
        for one in written:
            url = URL(path).update_query(limit="1", cursor=one)
            answer = await desk.rest.get(str(url))
            assert answer.status in (200, 400), (path, one, answer.text)
            assert answer.status == 200 or answer.headers["Content-Type"] == PROBLEM


async def test_nobody_waits_for_the_reading_of_a_large_body(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
):
    others_were_served = threading.Event()
    reads = asyncio.Event()
    loop = asyncio.get_running_loop()

    def read_when_others_were_served(raw: bytes) -> Any:
        loop.call_soon_threadsafe(reads.set)
        assert others_were_served.wait(20), "the loop was held"
        return json.loads(raw)

    monkeypatch.setattr(bodies, "read_json", read_when_others_were_served)
    body = json.dumps({"bootId": "b", "x": [0] * 40_000})
    large = asyncio.ensure_future(rest.post(BEAT, data=body, headers=JSON))
    await reads.wait()
    assert (await rest.get("/livez")).status == 200
    others_were_served.set()
    assert (await large).status == 404
