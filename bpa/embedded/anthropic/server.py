"""The stub's HTTP edge: the Messages API, its health, and the control endpoints."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog
from aiohttp import web

from bpa.embedded.anthropic import events, tokens
from bpa.embedded.anthropic.answers import Answer, answer, cached
from bpa.embedded.anthropic.documents import read_document
from bpa.embedded.anthropic.ledger import Entry, Ledger
from bpa.embedded.anthropic.protocol import (
    ApiError,
    MessagesRequest,
    check_headers,
    parse_request,
)
from bpa.embedded.anthropic.rules import Behaviour, StubRule
from bpa.embedded.script import Script, decode_rules
from bpa.embedded.web import Listener, dropped, json_response
from bpa.errors import InvalidRequest

_STUB_HEADER = {"x-bpa-stub": "true"}


@dataclass(frozen=True, slots=True)
class StubOptions:
    """How the stub listens and answers."""

    host: str = "127.0.0.1"
    """The address to bind."""
    port: int = 0
    """The port to bind; 0 picks any free one."""
    latency_ms: float = 0.0
    """Wait so long before each answer, in ms."""
    ledger_entries: int = 1_000
    """How many requests the ledger keeps one by one; its totals count all of them."""
    max_body_bytes: int = 32 * 1024 * 1024
    """Larger requests get 413, as the API does it."""
    finish_s: float = 10.0
    """How long a close waits for requests in flight, in seconds."""
    port_setting: str = "--port"
    """The setting that an error about the port names."""


@dataclass(slots=True)
class _Exchange:
    """One request on its way to the ledger."""

    request_id: str
    endpoint: str
    model: str = ""
    stream: bool = False
    invoice_id: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    headers: dict[str, str] | None = None

    def entry(self, status: int, outcome: str) -> Entry:
        return Entry(
            request_id=self.request_id,
            endpoint=self.endpoint,
            model=self.model,
            status=status,
            outcome=outcome,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            stream=self.stream,
            invoice_id=self.invoice_id,
            cache_read_tokens=self.cache_read_tokens,
            cache_write_tokens=self.cache_write_tokens,
        )


class _Dropped(Exception):
    """The connection is to be cut without an answer."""


class AnthropicStub:
    """A model stub that speaks the Anthropic Messages API; no model is behind it.

    Use it as an async context manager, or call ``start`` and ``aclose``.
    """

    def __init__(self, options: StubOptions | None = None) -> None:
        self._options = options or StubOptions()
        self._ledger = Ledger(self._options.ledger_entries)
        self._script: Script[StubRule] = Script()
        self._numbers = itertools.count(1)
        self._log = structlog.get_logger("bpa.embedded.anthropic")
        self._listener = Listener(
            self._handle,
            host=self._options.host,
            port=self._options.port,
            port_setting=self._options.port_setting,
            max_body_bytes=self._options.max_body_bytes,
            finish_s=self._options.finish_s,
            cancels=True,  # nobody waits for the rest of a latency, and a close must not either
        )

    @property
    def port(self) -> int:
        """The bound port."""
        return self._listener.port

    @property
    def url(self) -> str:
        """The base address for clients, without a trailing slash."""
        return self._listener.url

    async def start(self) -> None:
        """Bind and serve.

        Raises:
            StartupError: The port cannot be bound.
        """
        await self._listener.start()
        self._log.warning(
            "anthropic_stub_started", url=self.url, note="model stub, no model is behind it"
        )

    async def aclose(self) -> None:
        """Finish what is in flight and close."""
        await self._listener.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path.rstrip("/")
        if path in ("/v1/messages", "/v1/messages/count_tokens"):
            return await self._api(request, path)
        if path == "/health":
            return json_response({"status": "healthy", "stub": True}, headers=_STUB_HEADER)
        if path.startswith("/_stub/"):
            return await self._control(request, path)
        exchange = _Exchange(self._request_id(request.path.encode()), path)
        return self._error(exchange, ApiError(404, f"no such endpoint: {path[:200]}"))

    def _request_id(self, body: bytes) -> str:
        digest = hashlib.sha256(body).hexdigest()[:12]
        return f"req_stub_{digest}{next(self._numbers):08x}"

    async def _api(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            exchange = _Exchange(self._request_id(b""), path)
            return self._error(exchange, ApiError(413, "Request exceeds the maximum size"))
        exchange = _Exchange(self._request_id(body), path)
        try:
            if request.method != "POST":
                raise ApiError(405, "Method Not Allowed")
            version = check_headers(request.headers)
            if path.endswith("/count_tokens"):
                return self._count(exchange, body, version)
            return await self._messages(request, exchange, body, version)
        except ApiError as error:
            return self._error(exchange, error)
        except _Dropped:
            self._ledger.record(exchange.entry(0, "dropped"))
            return dropped(request)
        except asyncio.CancelledError:
            self._ledger.record(exchange.entry(0, "gone"))
            raise

    def _count(self, exchange: _Exchange, body: bytes, version: str) -> web.Response:
        parsed = parse_request(body, version, counting=True)
        exchange.model = parsed.model
        count = tokens.count_input(parsed.system, parsed.messages, parsed.tools)
        self._ledger.record(exchange.entry(200, "counted"))
        return json_response({"input_tokens": count}, headers=_headers(exchange))

    async def _messages(
        self, request: web.BaseRequest, exchange: _Exchange, body: bytes, version: str
    ) -> web.StreamResponse:
        parsed = parse_request(body, version)
        exchange.model, exchange.stream = parsed.model, parsed.stream
        exchange.invoice_id = read_document(parsed.user_text).invoice_id or ""
        rule = self._script.choose(lambda rule: rule.match.fits(parsed)) or StubRule()
        latency_ms = self._options.latency_ms + rule.latency_ms
        if latency_ms:
            await asyncio.sleep(latency_ms / 1000)
        if rule.retry_after_s is not None:
            exchange.headers = {"retry-after": f"{rule.retry_after_s:g}"}
        if rule.status is not None:
            raise ApiError(rule.status, rule.message, rule.error)
        if rule.behave is Behaviour.DROP or (
            rule.behave is Behaviour.DROP_MID_STREAM and not parsed.stream
        ):
            raise _Dropped
        return await self._answer(request, exchange, parsed, rule)

    async def _answer(
        self,
        request: web.BaseRequest,
        exchange: _Exchange,
        parsed: MessagesRequest,
        rule: StubRule,
    ) -> web.StreamResponse:
        suffix = exchange.request_id.removeprefix("req_stub_")
        behave = rule.behave
        made = answer(parsed, behave, f"toolu_stub_{suffix}")
        made = cached(made, rule.cache_read_tokens, rule.cache_write_tokens)
        exchange.cache_read_tokens = made.cache_read_tokens
        exchange.cache_write_tokens = made.cache_write_tokens
        exchange.input_tokens, exchange.output_tokens = made.input_tokens, made.output_tokens
        message_id = f"msg_stub_{suffix}"
        if parsed.stream:
            return await self._stream(request, exchange, made, message_id, behave)
        payload = json.dumps(
            events.message(made, message_id, parsed.model),
            separators=(",", ":"),
        ).encode()
        outcome = made.stop_reason
        if behave is Behaviour.MALFORMED:
            payload, outcome = payload[: len(payload) // 2], "malformed"
        self._ledger.record(exchange.entry(200, outcome))
        return web.Response(
            body=payload, headers=_headers(exchange), content_type="application/json"
        )

    async def _stream(
        self,
        request: web.BaseRequest,
        exchange: _Exchange,
        made: Answer,
        message_id: str,
        behave: Behaviour,
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers=_headers(exchange))
        response.content_type = "text/event-stream"
        response.headers["cache-control"] = "no-cache"
        await response.prepare(request)
        frames = list(events.stream(made, message_id, exchange.model))
        half = len(frames) // 2
        await response.write(b"".join(frames[:half]))
        if behave is Behaviour.DROP_MID_STREAM:
            raise _Dropped
        if behave is Behaviour.MALFORMED:
            frames[half:] = [b'event: message_delta\ndata: {"type": "message_del\n\n']
        self._ledger.record(
            exchange.entry(200, "malformed" if behave is Behaviour.MALFORMED else made.stop_reason)
        )
        await response.write_eof(b"".join(frames[half:]))
        return response

    def _error(self, exchange: _Exchange, error: ApiError) -> web.Response:
        self._ledger.record(exchange.entry(error.status, error.kind))
        return json_response(
            {
                "type": "error",
                "error": {"type": error.kind, "message": error.message},
                "request_id": exchange.request_id,
            },
            error.status,
            _headers(exchange),
        )

    async def _control(self, request: web.BaseRequest, path: str) -> web.Response:
        action = (request.method, path.removeprefix("/_stub/"))
        if action == ("PUT", "script"):
            try:
                self._script.replace(decode_rules(await request.read(), StubRule))
            except InvalidRequest as error:
                return json_response({"error": str(error)}, 400)
        elif action == ("DELETE", "script"):
            self._script.replace([])
        elif action == ("DELETE", "ledger"):
            self._ledger.clear()
        elif action == ("GET", "ledger"):
            return json_response(
                {"totals": self._ledger.totals(), "entries": self._ledger.entries()}
            )
        elif action != ("GET", "script"):
            return json_response({"error": "no such control endpoint"}, 404)
        return json_response(self._script.describe())


def _headers(exchange: _Exchange) -> dict[str, str]:
    return {"request-id": exchange.request_id, **_STUB_HEADER, **(exchange.headers or {})}
