"""http.out against a server that follows a script; no test waits for a real pause."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import aiohttp
import pytest
from aiohttp import web

from bpa.connectors import OutboundRequest, OutboundTry
from bpa.connectors.http_out import EXCERPT_BYTES, HttpOut, quoted_key
from bpa.errors import InvalidRequest, Reason, RunEnded, StaleLease
from bpa.retry import RetryPolicy
from tests.integration.connectors.scripted_server import hang_up, never, scripted_server, status

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Pauses(list[float]):
    async def sleep(self, pause_s: float) -> None:
        self.append(pause_s)

    def clock(self) -> float:
        """As if the pauses had passed."""
        return time.monotonic() + sum(self)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


def request_to(url: str, **changes) -> OutboundRequest:
    values = {"url": url, "body": b'{"total": "12.50"}', "idempotency_key": "run-1:7"} | changes
    return OutboundRequest(**values)


def http_out(session, pauses: Pauses, **changes) -> HttpOut:
    return HttpOut(session, sleep=pauses.sleep, draw=lambda: 0.5, clock=pauses.clock, **changes)


async def test_a_success_is_returned_with_its_status_and_excerpt(session):
    async with scripted_server(status(201, "accepted\x00\n")) as server:
        result = await http_out(session, Pauses()).send(request_to(server.url))
    assert (result.status, result.tries, result.excerpt) == (201, 1, "accepted")
    assert result.elapsed_ms > 0


async def test_every_try_carries_the_same_bytes_key_and_trace_context(session):
    script = [status(500), status(503), status(429), status(200)]
    async with scripted_server(*script) as server:
        result = await http_out(session, Pauses()).send(
            request_to(
                server.url, traceparent=TRACEPARENT, tracestate="a=b", headers={"X-Api-Key": "k"}
            )
        )
    assert result.tries == 4
    assert server.bodies == [b'{"total": "12.50"}'] * 4
    for headers in server.headers:
        assert headers["idempotency-key"] == '"run-1:7"'
        assert headers["traceparent"] == TRACEPARENT
        assert headers["tracestate"] == "a=b"
        assert headers["content-type"] == "application/json"
        assert headers["x-api-key"] == "k"


@pytest.mark.parametrize("code", [500, 503, 504, 429, 599])
async def test_a_target_that_keeps_failing_gets_four_tries_and_the_run_ends(session, code):
    pauses = Pauses()
    async with scripted_server(status(code)) as server:
        with pytest.raises(RunEnded) as ended:
            await http_out(session, pauses).send(request_to(server.url))
    assert ended.value.reason is Reason.RETRIES_EXHAUSTED
    assert f"HTTP {code}" in ended.value.detail
    assert len(server.bodies) == 4
    assert pauses == pytest.approx([0.1, 0.2, 0.4])


@pytest.mark.parametrize("code", [500, 502, 504, 599])
async def test_what_may_have_been_applied_is_not_sent_again_where_that_would_apply_it_twice(
    session, code
):
    pauses = Pauses()
    async with scripted_server(status(code)) as server:
        with pytest.raises(RunEnded, match=f"HTTP {code} on try 1") as ended:
            await http_out(session, pauses).send(request_to(server.url, idempotent=False))
    assert ended.value.reason is Reason.OUTCOME_UNKNOWN
    assert (len(server.bodies), pauses) == (1, [])


async def test_a_lost_answer_to_what_is_not_idempotent_leaves_its_outcome_unknown(session):
    pauses, seen = Pauses(), []
    async with scripted_server(status(503), hang_up) as server:
        with pytest.raises(RunEnded, match="on try 2") as ended:
            await http_out(session, pauses, on_try=seen.append).send(
                request_to(server.url, idempotent=False)
            )
    assert ended.value.reason is Reason.OUTCOME_UNKNOWN
    assert "look there whether the effect was applied" in ended.value.detail
    assert [(tried.status, bool(tried.error)) for tried in seen] == [(503, False), (None, True)]
    assert len(server.bodies) == 2


async def test_a_target_that_hangs_over_what_is_not_idempotent_is_asked_once(session):
    async with scripted_server(never) as server:
        with pytest.raises(RunEnded) as ended:
            await http_out(session, Pauses(), timeout_s=0.1).send(
                request_to(server.url, idempotent=False)
            )
        assert ended.value.reason is Reason.OUTCOME_UNKNOWN
        assert len(server.bodies) == 1


@pytest.mark.parametrize("code", [429, 503])
async def test_what_the_target_did_not_take_is_sent_again(session, code):
    async with scripted_server(status(code), status(201)) as server:
        result = await http_out(session, Pauses()).send(request_to(server.url, idempotent=False))
    assert (result.tries, server.bodies) == (2, [b'{"total": "12.50"}'] * 2)


async def test_what_was_never_sent_is_tried_again_though_it_is_not_idempotent(session):
    pauses = Pauses()
    with socket.socket() as deaf:  # bound and not listening: every connection is refused
        deaf.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/invoices"
        with pytest.raises(RunEnded) as ended:
            await http_out(session, pauses).send(request_to(url, idempotent=False))
    assert ended.value.reason is Reason.RETRIES_EXHAUSTED
    assert len(pauses) == 3


async def test_a_conflict_over_what_is_not_idempotent_is_an_answer(session):
    async with scripted_server(status(409)) as server:
        with pytest.raises(RunEnded) as ended:
            await http_out(session, Pauses()).send(request_to(server.url, idempotent=False))
    assert ended.value.reason is Reason.NON_RETRYABLE_HTTP_STATUS
    assert len(server.bodies) == 1


async def test_an_earlier_request_in_flight_is_waited_for_and_costs_no_try(session):
    pauses, seen = Pauses(), []
    script = [status(503), *[status(409)] * 12, status(503), status(409), status(503), status(201)]
    async with scripted_server(*script) as server:
        result = await http_out(session, pauses, on_try=seen.append).send(request_to(server.url))
    assert (result.status, result.tries) == (201, 4)
    assert len(set(server.bodies)) == 1
    assert {headers["idempotency-key"] for headers in server.headers} == {'"run-1:7"'}
    assert [tried.number for tried in seen if tried.status == 503] == [1, 2, 3]
    assert sum(pauses) > 15


async def test_retry_after_is_honoured_while_an_earlier_request_is_in_flight(session):
    pauses = Pauses()
    async with scripted_server(status(409, Retry_After="4"), status(201)) as server:
        await http_out(session, pauses).send(request_to(server.url))
    assert pauses == [pytest.approx(4.1)]


async def test_a_request_that_stays_in_flight_leaves_the_outcome_unknown(session):
    pauses = Pauses()
    async with scripted_server(status(409)) as server:
        with pytest.raises(RunEnded, match="still works on an earlier request") as ended:
            await http_out(session, pauses).send(request_to(server.url, timeout_s=2.0))
    assert ended.value.reason is Reason.OUTCOME_UNKNOWN
    assert "a replay asks again under the same key" in ended.value.detail
    assert 6 <= sum(pauses) < 9, "three timeouts, and one pause that had begun"
    assert len(server.bodies) == len(pauses) + 1


async def test_waiting_for_an_earlier_request_ends_with_the_deadline(session):
    pauses = Pauses()
    async with scripted_server(status(409)) as server:
        with pytest.raises(RunEnded, match="no time to ask again") as ended:
            await http_out(session, pauses).send(
                request_to(server.url, deadline_s=time.monotonic() + 5)
            )
    assert ended.value.reason is Reason.DEADLINE_EXCEEDED
    assert 2 < sum(pauses) < 5


@pytest.mark.parametrize("code", [400, 401, 404, 408, 422, 301, 307])
async def test_any_other_status_ends_the_run_at_once(session, code):
    async with scripted_server(status(code, Location="/elsewhere")) as server:
        with pytest.raises(RunEnded) as ended:
            await http_out(session, Pauses()).send(request_to(server.url))
    assert ended.value.reason is Reason.NON_RETRYABLE_HTTP_STATUS
    assert len(server.bodies) == 1


@pytest.mark.parametrize("idempotent", [True, False])
async def test_not_a_byte_leaves_when_the_permission_ends_while_it_connects(idempotent):
    connected, seen = asyncio.Event(), []
    trace = aiohttp.TraceConfig()

    async def note(*_) -> None:
        connected.set()

    def permit() -> None:
        if connected.is_set():
            raise StaleLease("the lease has ended")

    trace.on_connection_create_end.append(note)
    async with (
        aiohttp.ClientSession(trace_configs=[trace]) as session,
        scripted_server(status(200)) as server,
    ):
        sink = http_out(session, Pauses(), on_try=seen.append)
        with pytest.raises(StaleLease):
            await sink.send(request_to(server.url, idempotent=idempotent, before_try=permit))
        assert connected.is_set(), "it had leave to connect"
        assert (server.bodies, server.headers, seen) == ([], [], [])


async def test_a_connection_that_drops_is_tried_again(session):
    tries: list[OutboundTry] = []
    async with scripted_server(hang_up, status(200)) as server:
        result = await http_out(session, Pauses(), on_try=tries.append).send(request_to(server.url))
    assert result.tries == 2
    assert [(t.number, t.status, t.error) for t in tries] == [
        (1, None, "ServerDisconnectedError"),
        (2, 200, None),
    ]


async def test_nobody_listening_exhausts_the_tries(session, unused_tcp_port):
    with pytest.raises(RunEnded) as ended:
        await http_out(session, Pauses()).send(request_to(f"http://127.0.0.1:{unused_tcp_port}/"))
    assert ended.value.reason is Reason.RETRIES_EXHAUSTED


@pytest.mark.parametrize("code", [429, 503])
async def test_retry_after_in_seconds_replaces_the_backoff(session, code):
    pauses = Pauses()
    async with scripted_server(status(code, Retry_After="3"), status(200)) as server:
        await http_out(session, pauses).send(request_to(server.url))
    assert pauses == [pytest.approx(3.1)]


async def test_retry_after_as_a_date_is_honoured(session):
    pauses = Pauses()
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    async with scripted_server(status(503, Retry_After=at), status(200)) as server:
        await http_out(session, pauses).send(request_to(server.url))
    assert 18 <= pauses[0] <= 20.2


async def test_retry_after_is_capped_and_ignored_where_it_means_nothing(session):
    pauses = Pauses()
    script = [status(429, Retry_After="86400"), status(500, Retry_After="9"), status(200)]
    policy = RetryPolicy(retry_after_cap_s=10)
    async with scripted_server(*script) as server:
        await http_out(session, pauses, policy=policy).send(request_to(server.url))
    assert pauses == pytest.approx([10.1, 0.2])


async def test_no_pause_crosses_the_deadline(session):
    pauses = Pauses()
    async with scripted_server(status(503, Retry_After="20")) as server:
        with pytest.raises(RunEnded) as ended:
            await http_out(session, pauses).send(
                request_to(server.url, deadline_s=time.monotonic() + 5)
            )
    assert ended.value.reason is Reason.DEADLINE_EXCEEDED
    assert pauses == []


async def test_nothing_is_sent_after_the_deadline(session):
    async with scripted_server(status(200)) as server:
        with pytest.raises(RunEnded) as ended:
            await http_out(session, Pauses()).send(
                request_to(server.url, deadline_s=time.monotonic() - 1)
            )
    assert ended.value.reason is Reason.DEADLINE_EXCEEDED
    assert server.bodies == []


async def test_a_target_that_never_answers_is_cut_off_at_the_deadline(session):
    release = asyncio.Event()

    async def never(_: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.Response()

    async with scripted_server(never) as server:
        with pytest.raises(RunEnded) as ended:
            await http_out(session, Pauses()).send(
                request_to(server.url, deadline_s=time.monotonic() + 0.2)
            )
        release.set()
    assert ended.value.reason is Reason.DEADLINE_EXCEEDED


async def test_a_target_that_never_answers_costs_one_timeout_a_try(session):
    release = asyncio.Event()

    async def never(_: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.Response()

    async with scripted_server(never, status(200)) as server:
        result = await http_out(session, Pauses(), timeout_s=0.1).send(request_to(server.url))
        release.set()
    assert result.tries == 2


async def test_an_endless_answer_is_cut_and_still_counts(session):
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while request.transport is not None and not request.transport.is_closing():
            await response.write(b"x" * 65536)
        return response

    async with scripted_server(endless) as server:
        result = await http_out(session, Pauses()).send(request_to(server.url))
    assert result.status == 200
    assert result.excerpt == "x" * EXCERPT_BYTES


async def test_an_unsendable_address_or_header_is_the_callers_mistake(session):
    sink = http_out(session, Pauses())
    with pytest.raises(InvalidRequest):
        await sink.send(request_to("http://[oops/"))
    with pytest.raises(InvalidRequest) as refused:
        await sink.send(request_to("http://me:hunter2@/?sig=hunter2"))
    assert "hunter2" not in str(refused.value)
    with pytest.raises(InvalidRequest):
        await sink.send(request_to("http://127.0.0.1:9/", headers={"X-A": "a\r\nX-B: b"}))


def test_a_key_is_quoted_as_a_structured_field_string():
    assert quoted_key("run:1") == '"run:1"'
    assert quoted_key('a"b\\c') == '"a\\"b\\\\c"'
    for wrong in ("", "clé", "a\nb"):
        with pytest.raises(InvalidRequest):
            quoted_key(wrong)
