"""The HTTP server: its listener, its signals, how it ends."""

import asyncio
import signal
import socket
from typing import Any

import aiohttp
import pytest

from bpa.errors import StartupError
from bpa.web_server import listen, serve_http

HELLO = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def answer(send: Any, text: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text, "more_body": False})


async def hello(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await answer(send, b"hello")


class Waiting:
    """An application that waits for its client to leave, and then answers all the same."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()
        self.last: str = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] == "http.request":
            self.begun.set()
        self.last = message["type"]
        await answer(send, b"nothing today")
        self.ended.set()


async def test_a_request_is_answered_with_a_date():
    async with (
        serve_http(hello, "127.0.0.1", 0, "control.http_port") as url,
        aiohttp.ClientSession() as session,
        session.get(url) as response,
    ):
        assert await response.text() == "hello"
        assert response.headers["Date"].endswith("GMT")
        assert "Server" not in response.headers


async def test_head_is_answered_as_get_without_a_body_and_ends_a_stream():
    left = asyncio.Event()

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        assert scope["method"] == "GET"
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    async with (
        serve_http(stream, "127.0.0.1", 0, "control.http_port") as url,
        aiohttp.ClientSession() as session,
        asyncio.timeout(5),
        session.head(url) as response,
    ):
        assert (response.status, response.content_type) == (200, "text/event-stream")
        assert await response.read() == b""
        await left.wait()


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: ", HELLO + b"GET / HTTP/1.1\r\n"])
async def test_a_head_that_does_not_come_ends_the_connection(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("bpa.web_server.HEAD_S", 0.05)
    async with serve_http(hello, "127.0.0.1", 0, "control.http_port") as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", url.rpartition(":")[2])
        writer.write(sent)
        async with asyncio.timeout(5):
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert (b"HTTP/1.1 408 Request Timeout" in answer) == bool(sent)
    assert (b"hello" in answer) == sent.startswith(HELLO)


async def test_ipv6_addresses_are_written_in_brackets():
    async with (
        serve_http(hello, "::1", 0, "control.http_port") as url,
        aiohttp.ClientSession() as session,
        session.get(url) as response,
    ):
        assert url.startswith("http://[::1]:")
        assert response.status == 200


async def test_answers_do_not_wait_for_acknowledgements():
    seen: list[int] = []

    class Spy(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted = transport.get_extra_info("socket")
            seen.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            transport.close()

    listener = listen("127.0.0.1", 0, "control.http_port")
    server = await asyncio.get_running_loop().create_server(Spy, sock=listener)
    async with server:
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        await reader.read()
        writer.close()
        await writer.wait_closed()
    assert seen == [1]


async def test_signals_stay_with_the_role():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    async with serve_http(hello, "127.0.0.1", 0, "control.http_port"):
        during = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert during == before


async def test_a_taken_port_is_one_line_that_names_the_setting():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartupError, match=r"set control\.http_port, 0 for any") as refused:
            async with serve_http(hello, "127.0.0.1", port, "control.http_port"):
                pytest.fail("it started on a port that is taken")
        assert str(port) in str(refused.value)
        assert "\n" not in str(refused.value)


async def test_an_address_that_is_not_ours_is_one_line():
    with pytest.raises(StartupError, match="cannot listen on 203"):
        async with serve_http(hello, "203.0.113.7", 0, "control.http_port"):
            pytest.fail("it started on another's address")


async def test_an_exception_inside_passes_through_as_it_is_and_frees_the_port():
    ports: list[int] = []

    async def role() -> None:
        async with serve_http(hello, "127.0.0.1", 0, "control.http_port") as url:
            ports.append(int(url.rpartition(":")[2]))
            raise KeyError("the role's own")

    with pytest.raises(KeyError, match="the role's own"):
        await role()
    async with serve_http(hello, "127.0.0.1", ports[0], "control.http_port") as url:
        assert url.endswith(f":{ports[0]}")


async def test_a_cancelled_role_stops_serving():
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def role() -> None:
        async with serve_http(hello, "127.0.0.1", 0, "control.http_port") as base:
            url.set_result(base)
            await asyncio.Event().wait()

    running = asyncio.ensure_future(role())
    base = await url
    running.cancel()
    await asyncio.wait({running}, timeout=5)
    assert running.cancelled()
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(base)


async def test_what_waits_hears_of_the_end_at_once_and_still_answers():
    app = Waiting()
    async with aiohttp.ClientSession() as session:
        async with serve_http(app, "127.0.0.1", 0, "control.http_port") as url:
            asked = asyncio.ensure_future(session.post(url, data=b"x"))
            await app.begun.wait()
            assert not app.ended.is_set()
            closing_at = asyncio.get_running_loop().time()
        took_s = asyncio.get_running_loop().time() - closing_at
        response = await asked
        assert await response.text() == "nothing today"
    assert app.last == "http.disconnect"
    assert took_s < 1.5, "an open poll held the shutdown up"


async def test_idle_connections_do_not_hold_the_end_up():
    async with aiohttp.ClientSession() as session:
        async with serve_http(hello, "127.0.0.1", 0, "control.http_port") as url:
            async with session.get(url) as response:
                await response.read()
            closing_at = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - closing_at < 1.5


async def test_a_client_that_leaves_is_noticed():
    app = Waiting()
    async with serve_http(app, "127.0.0.1", 0, "control.http_port") as url:
        async with aiohttp.ClientSession() as session:
            asked = asyncio.ensure_future(session.post(url, data=b"x"))
            await app.begun.wait()
            asked.cancel()
            await asyncio.wait({asked})
        async with asyncio.timeout(5):
            await app.ended.wait()
