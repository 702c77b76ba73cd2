"""One HTTP server: uvicorn with httptools, in the loop of everything else."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bpa.errors import StartupError

_SHUTDOWN_S = 3
_BACKLOG = 1024
_LINGER_S = 2.0
"""How long what a refused client still sends is thrown away: hung up on at once, it would lose the
answer that waits for it."""
HEAD_BYTES_MAX = 64 * 1024
"""Of a request's headers, names and values together."""
HEAD_S = 20.0
"""Seconds for a request's head to come, from its first byte or from the connection on."""
_REFUSED = {
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: f"headers have {HEAD_BYTES_MAX} bytes at most",
    HTTPStatus.REQUEST_TIMEOUT: f"the head of a request has {HEAD_S:g} s to come",
}

Message = MutableMapping[str, Any]


@asynccontextmanager
async def serve_http(app: Any, host: str, port: int, setting: str) -> AsyncIterator[str]:
    """Serve an ASGI app for as long as the context is open; yield its base URL.

    No task and no signal handler of uvicorn's runs: the listener is served by the loop, and who
    closes the context stops it. Open requests then get 3 s to end; those that wait for something
    hear ``http.disconnect`` at once, and can still answer. A request with both Content-Length and
    Transfer-Encoding is answered 400 (httptools; other parsers let it through).

    Args:
        app: The ASGI application; it gets no lifespan events.
        host: The address to listen on.
        port: The port; 0 takes any free one.
        setting: Which setting names the port, for the message when it is taken.

    Raises:
        StartupError: The address cannot be listened on.
    """
    served = _Closable(app)
    config = uvicorn.Config(
        served,
        http=_Requests,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_SHUTDOWN_S,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    with listen(host, port, setting) as listener:
        await server.startup(sockets=[listener])
        try:
            yield f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        finally:
            served.close()
            await server.shutdown(sockets=[listener])


class _Requests(HttpToolsProtocol):
    """Requests with a bounded head; what is no request is answered as a problem (RFC 9457).

    The parser keeps a header until it is whole, however long, takes any number of them, and waits
    for the next byte forever.
    """

    _head_bytes = 0
    _pending_bytes = 0
    _head_is_whole = True
    _is_refused = False
    _head_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request, and not forever; between requests uvicorn does so."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing more."""
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and refuse a head that goes on for too long."""
        if self._is_refused:
            return
        super().data_received(data)
        if not (self._head_is_whole or self._is_refused):
            self._pending_bytes += len(data)
            if self._pending_bytes > HEAD_BYTES_MAX:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Begin to count."""
        if self._head_due is None:
            self._expect_head()
        self._head_bytes = self._pending_bytes = 0
        self._head_is_whole = False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header while there is room.

        Raises:
            ValueError: There is none; the parser ends there.
        """
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > HEAD_BYTES_MAX:
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        self._head_came()
        self._head_is_whole = True
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser has not understood, or had too much of."""
        is_too_large = self._head_bytes > HEAD_BYTES_MAX
        self._refuse(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if is_too_large else HTTPStatus.BAD_REQUEST
        )

    def _expect_head(self) -> None:
        self._head_due = self.loop.call_later(HEAD_S, self._be_done_waiting)

    def _head_came(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    def _be_done_waiting(self) -> None:
        self._head_due = None
        if self._head_is_whole:  # nothing has come
            self.transport.close()
        elif not self._is_refused:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)

    def _refuse(self, status: HTTPStatus) -> None:
        body = json.dumps(
            {
                "title": status.phrase,
                "status": status,
                "detail": _REFUSED.get(status, "this is no HTTP request"),
                "code": status.name.lower(),
                "instance": "",
            }
        ).encode()
        head = (
            f"HTTP/1.1 {status} {status.phrase}\r\ncontent-type: application/problem+json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.write_eof()
        self._is_refused = True
        self.loop.call_later(_LINGER_S, self.transport.close)


class _Closable:
    """Tells requests whose body was read that the server closes, as if their client had left.

    It also dates the answers, which uvicorn does from a ticking task only, and has HEAD answered as
    GET (RFC 9110, 9.3.2), of which uvicorn leaves the body out; a stream ends with its head.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._closing = asyncio.Event()

    def close(self) -> None:
        """Have every request that waits on its client hear ``http.disconnect``."""
        self._closing.set()

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        body_is_read = answer_is_told = False
        is_head = scope["method"] == "HEAD"

        async def receive_or_close() -> Message:
            nonlocal body_is_read
            if body_is_read:
                return await self._disconnect(receive)
            message: Message = await receive()
            body_is_read = not message.get("more_body", False)
            return message

        async def send_dated(message: Message) -> None:
            nonlocal answer_is_told
            if answer_is_told:
                return
            if message["type"] == "http.response.start":
                date = (b"date", formatdate(usegmt=True).encode())
                message = {**message, "headers": [*message.get("headers", ()), date]}
            await send(message)
            if is_head:
                answer_is_told = True
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        asked = {**scope, "method": "GET"} if is_head else scope
        await self._app(asked, receive_or_close, send_dated)

    async def _disconnect(self, receive: Any) -> Message:
        left = asyncio.ensure_future(receive())
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({left, closing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            left.cancel()
            closing.cancel()
            await asyncio.wait({left, closing})
        return {"type": "http.disconnect"} if left.cancelled() else left.result()


def listen(host: str, port: int, setting: str) -> socket.socket:
    """Return a listening socket.

    It is named a TCP socket: on others asyncio leaves Nagle's algorithm on, and an answer written
    in two pieces then waits 40 ms for the client's delayed acknowledgement.

    Raises:
        StartupError: The address is taken or is not ours; one line that names the setting.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise StartupError(
            f"cannot listen on {host}:{port} ({error.strerror}); set {setting}, 0 for any free port"
        ) from error
    listener.setblocking(False)
    return listener
