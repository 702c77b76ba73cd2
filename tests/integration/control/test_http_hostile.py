"""What nobody should send: each is answered with a problem, and the server goes on."""

import base64
import json
from collections.abc import AsyncIterator
from io import BytesIO

import pytest
from yarl import URL

from bpa.control.http import BODY_BYTES_MAX
from tests.integration.control.fleet import Fleet
from tests.integration.control.rest import PROBLEM, Rest, rest_over

JSON = {"Content-Type": "application/json"}
RUN = "018f0000-0000-8000-8000-000000000000"
BEAT = "/v1/nodes/node-1:heartbeat"


@pytest.fixture
async def rest(fleet: Fleet) -> AsyncIterator[Rest]:
    async with rest_over(fleet) as rest:
        yield rest


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "body: one is needed"),
        (b"null", "Expected `object`"),
        (b"{", "not JSON"),
        (b'{"bootId": "b"} x', "not JSON"),
        (b'{"bootId": NaN}', "not JSON"),
        (b'{"bootId": "\xff"}', "not UTF-8"),
        ('{"bootId": "b"}'.encode("utf-16"), "not JSON"),
        (b'{"bootId": "\\ud800"}', "not JSON"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deep"),
        (b'{"bootId": "b", "x": ' + b"[" * 64 + b"]" * 64 + b"}", "nested too deep"),
        (b'{"bootId": "a\\u0000b"}', "NUL"),
        (b'{"bootId": "b", "\\u0000": 1}', "NUL"),
        (b'{"bootId": "b", "x": [{"y": "\\u0000"}]}', "NUL"),
        (b'{"bootId": "a\x00b"}', "not JSON"),
        (b'{"bootId": "b", "x": 9223372036854775808}', "64 bits"),
        (b'{"bootId": "b", "x": -9223372036854775809}', "64 bits"),
        (b'{"bootId": "b", "x": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"bootId": "b", "x": 1e999}', "not JSON"),
        (b'{"bootId": 5}', "Expected `str`"),
        (b'{"bootId": "' + b"b" * 5000 + b'"}', "length <= 4096"),
        (b'{"bootId": "b", "held": [{"runId": "x", "epoch": 1}]}', "held"),
        (b'{"bootId": "b", "held": [{"runId": "' + RUN.encode() + b'", "epoch": -1}]}', ">= 0"),
        (b"[]", "Expected `object`"),
    ],
)
async def test_a_body_that_cannot_be_used_is_a_bad_request(rest: Rest, body: bytes, told: str):
    answer = await rest.post(BEAT, data=body, headers=JSON)
    assert (answer.status, answer.json["code"]) == (400, "invalid_request"), answer.text
    assert answer.headers["Content-Type"] == PROBLEM
    assert told in answer.json["detail"]
    assert answer.json["instance"] == BEAT
    assert (await rest.get("/livez")).status == 200


@pytest.mark.parametrize(
    "body", [b'{"bootId": "b"}', b'{"bootId": "b", "x": ' + b"[" * 63 + b"]" * 63 + b"}"]
)
async def test_a_body_that_can_be_used_is_no_bad_request(rest: Rest, body: bytes):
    assert (await rest.post(BEAT, data=body, headers=JSON)).status == 404  # it never registered


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/agents/a%00b", 400),
        ("GET", "/v1/runs/%00", 400),
        ("GET", "/nowhere%00", 400),
        ("POST", "/v1/agents/%00:version", 400),
        ("POST", f"/v1/runs/{RUN}:complete%00", 400),
        ("GET", "/v1/runs?deployment=a%00b", 400),
        ("GET", "/v1/runs?nothing=%00", 400),
        ("GET", "/v1/runs?status=bored", 400),
        ("GET", "/v1/runs?limit=0", 400),
        ("GET", "/v1/runs?limit=99999999999999999999999", 400),
        ("GET", "/v1/runs?cursor=x", 400),
        ("GET", "/v1/runs?cursor=%FF", 400),
        ("GET", "/v1/runs?cursor=MjAyNi0wMS0wMVQwMDowMDowMCswMDowMHxub3BlCg==", 400),
        ("GET", "/v1/runs?cursor=OTk5OS0xMi0zMVQyMzo1OTo1OS0xNDowMHw=", 400),
        ("GET", "/v1/totals?since=yesterday", 400),
        ("GET", "/v1/runs/%FF%FE", 404),
        ("GET", "/v1/agents/%F0%9F%92%A9", 404),
        ("GET", "/v1/agents/..%2F..%2Fetc", 404),
        ("GET", f"/v1/runs/{RUN}'%20or%201=1", 404),
        ("GET", "/v1/nodes/host:8080", 404),
        ("GET", "/schema/redoc", 404),
        ("GET", "/schema/openapi.yaml", 404),
        ("POST", f"/v1/runs/{RUN}:explode", 405),
        ("POST", "/v1/nodes", 405),
        ("DELETE", f"/v1/runs/{RUN}", 405),
        ("GET", f"/v1/runs/{RUN}:complete", 405),
        ("GET", "/v1/nodes:register", 405),
        ("TRACE", "/v1/runs", 405),
    ],
)
async def test_a_path_that_leads_nowhere_is_a_problem(
    rest: Rest, method: str, path: str, status: int
):
    answer = await rest.request(method, URL(path, encoded=True))
    assert answer.status == status, answer.text
    assert answer.headers["Content-Type"] == PROBLEM
    assert (answer.json["status"], answer.json["instance"]) == (status, path.partition("?")[0])
    assert answer.json["title"]
    assert answer.json["detail"]


async def test_a_wrong_method_names_the_right_ones(rest: Rest):
    answer = await rest.request("DELETE", "/v1/agents")
    assert {method.strip() for method in answer.headers["Allow"].split(",")} >= {"GET", "POST"}


async def test_a_body_of_another_kind_is_not_guessed_at(rest: Rest):
    body = json.dumps({"bootId": "b"}).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/msgpack"):
        answer = await rest.post(BEAT, data=body, headers={"Content-Type": kind})
        assert (answer.status, answer.json["code"]) == (415, "unsupported_media_type")
        assert kind in answer.json["detail"]
    merged = await rest.post(BEAT, data=body, headers={"Content-Type": "application/x+json"})
    assert merged.status == 404


async def test_a_body_over_the_limit_is_refused_with_and_without_its_length(rest: Rest):
    body = b'{"bootId": "' + b"b" * BODY_BYTES_MAX + b'"}'
    told = await rest.post(BEAT, data=BytesIO(body), headers=JSON)
    assert (told.status, told.headers["Content-Type"]) == (413, PROBLEM)
    assert told.json["code"] == "request_entity_too_large"

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    streamed = await rest.post(BEAT, data=pieces(), headers=JSON)
    assert (streamed.status, streamed.headers["Content-Type"]) == (413, PROBLEM)


async def test_a_schema_nested_as_deep_as_a_body_may_be_is_no_fault_of_ours(rest: Rest):
    schema: dict[str, object] = {}
    for _ in range(30):
        schema = {"properties": {"x": schema}}
    deployment = {
        "agentId": "invoice-classifier",
        "version": "1.0.0",
        "environment": "deep",
        "inputSchema": schema,
    }
    assert (await rest.post("/v1/deployments", deployment)).status == 201


async def test_a_key_for_idempotency_has_a_length(rest: Rest):
    agent = {"agentId": "a", "version": "1", "name": "A", "instructions": "Do."}
    answer = await rest.post("/v1/agents", agent, headers={"Idempotency-Key": "k" * 256})
    assert (answer.status, answer.json["code"]) == (400, "invalid_request")
    assert "idempotency-key: " in answer.json["detail"]


async def test_a_problem_carries_the_trace_it_belongs_to(rest: Rest):
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    assert (await rest.get("/nowhere", headers=headers)).json["trace_id"] == trace
    for nonsense in ("x", "00-x-y-01", "00-" + "g" * 32 + "-b7ad6b7169203331-01"):
        answer = await rest.get("/nowhere", headers={"traceparent": nonsense})
        assert answer.json["trace_id"] is None


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /v1/nodes:register HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: a\r\n\r\n",
        b"GET /v1/agents/\xff\xfe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\x00\r\n\r\n",
        b"NONSENSE\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_answered_400_and_hung_up_on(rest: Rest, request_: bytes):
    answer = await rest.raw(request_)
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert (await rest.get("/livez")).status == 200


@pytest.mark.parametrize("number", [2**63 - 1, 2**63, 10**19 - 1, 10**19])
async def test_a_dead_letter_of_a_number_that_no_broker_counts_to_is_not_there(
    rest: Rest, number: int
):
    answer = await rest.get(f"/v1/dead-letters/invoices:{number}")
    assert (answer.status, answer.json["code"]) == (404, "not_found")
    asked = {"ids": [f"invoices:{number}"]}
    assert (await rest.post("/v1/dead-letters:replay", asked)).status == 404
    cursor = base64.urlsafe_b64encode(f"invoices:{number}".encode()).decode()
    assert (await rest.get(f"/v1/dead-letters?cursor={cursor}")).status == 400


@pytest.mark.parametrize(
    "path", ["/v1/runs", "/v1/events", "/schema", "/metrics", "/ui", "/nowhere"]
)
async def test_a_foreign_name_for_loopback_reads_nothing(rest: Rest, path: str):
    answer = await rest.get(path, headers={"Host": "evil.example"})
    assert (answer.status, answer.json["code"]) == (403, "not_allowed")
    assert "answers to localhost alone" in answer.json["detail"]


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}]
)
async def test_another_sites_page_acts_on_nothing(
    rest: Rest, fleet: Fleet, headers: dict[str, str]
):
    await fleet.register()
    answer = await rest.request("POST", "/v1/nodes/node-1:cordon", headers=headers)
    assert (answer.status, answer.json["code"]) == (403, "not_allowed")
    assert (await fleet.nodes.get("node-1"))["cordoned_at"] is None
