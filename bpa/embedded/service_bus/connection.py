"""One client's connection: moves bytes between socket and engine, and events to the links.

Whatever goes wrong here ends here: a peer that breaks the protocol, stays silent or meets a bug
of ours is hung up on and logged, and nobody else notices.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import structlog

from . import cbs, conditions
from .attach import attach, link_node, link_path
from .broker import Broker
from .claims import Claims
from .engine import (
    Engine,
    Handler,
    ProtocolError,
    close_link,
    free_link,
    free_session,
    link_session,
    open_session,
    refuse_link,
)
from .framing import FrameSplitter
from .links import LinkHandler
from .log_events import (
    CONNECTION_CLOSED,
    CONNECTION_FAILED,
    CONNECTION_OPENED,
    CONNECTION_REFUSED,
    LINK_REFUSED,
)
from .refusals import Refused, Unauthorized
from .requests import ReplyLink
from .sasl import SaslFailed, SaslServer

MAX_FRAME_BYTES = 262_144
IDLE_TIMEOUT_MS = 240_000
_HANDSHAKE_S = 30.0
_LONGEST_NAME = 200
_UNREAD_BYTES = 16 * 1024 * 1024
_NEVER_READS = "the peer asks, and does not read the answers"
_WRITE_BUFFER_BYTES = 1024 * 1024
_LONGEST_WATCH_S = 3600.0

_log = structlog.get_logger(__name__)


class Connection(asyncio.Protocol, Handler):
    """Serves one socket.

    Args:
        broker: The queues.
        registry: Holds every connection that is open; this one enters and leaves it.
    """

    def __init__(self, broker: Broker, registry: set[Connection]) -> None:
        self.feeding_batch = False
        self._writing_paused = False
        self._unflushed_bytes = 0
        self._held_bytes = 0
        self._broker = broker
        self._registry = registry
        self._engine = Engine("bpa-service-bus", MAX_FRAME_BYTES, IDLE_TIMEOUT_MS)
        self._sasl = SaslServer()
        self.claims = Claims(self._watch_claims)
        self._claims_timer: asyncio.TimerHandle | None = None
        self._frames = FrameSplitter(MAX_FRAME_BYTES)
        self._links: dict[Any, LinkHandler] = {}
        self._woken = False
        self._timer: asyncio.TimerHandle | None = None
        self._opened = False
        self._container: str | None = None
        self._end_reason: str | None = None
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # As the socket's protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._loop = asyncio.get_running_loop()
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has no common base
        self._peer = transport.get_extra_info("peername")
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        self._registry.add(self)
        self._timer = self._loop.call_later(_HANDSHAKE_S, self._on_handshake_timeout)

    def data_received(self, data: bytes) -> None:
        """Take bytes in."""
        try:
            if not self._sasl.finished:
                data = self._secure(data)
            for piece, begins_batch in self._frames.feed(data):
                self.feeding_batch = begins_batch
                self._engine.feed(piece, self)
                self.feeding_batch = False
            self._flush()
        except SaslFailed as failure:
            _log.warning(CONNECTION_REFUSED, peer=self._peer, reason=str(failure))
            self._transport.write(failure.answer)
            self._transport.close()
        except ProtocolError as error:
            _log.warning(CONNECTION_REFUSED, peer=self._peer, reason=str(error))
            self._end_reason = str(error)
            self._hang_up()
        except Exception:  # noqa: BLE001 - logged; ends this connection only
            self._contain()

    def _secure(self, data: bytes) -> bytes:
        answer, rest = self._sasl.feed(data)
        self._transport.write(answer)
        if self._sasl.trusted:
            self.claims.trust()
        return rest

    def eof_received(self) -> None:
        """Let the socket close."""

    def connection_lost(self, error: Exception | None) -> None:
        """Drop what the client held; its locks run out by themselves."""
        self._registry.discard(self)
        for timer in (self._timer, self._claims_timer):
            if timer is not None:
                timer.cancel()
        self._drop_links()
        reason = self._end_reason or self._engine.error() or (str(error) if error else "cut off")
        if self._opened:
            _log.info(CONNECTION_CLOSED, peer=self._peer, container=self._container, reason=reason)
        self._engine.free()
        self._woken = True  # nothing may wake a freed engine
        self.gone.set_result(None)

    def _drop_links(self) -> None:
        links, self._links = self._links, {}
        for handler in links.values():
            handler.on_closed()

    def pause_writing(self) -> None:
        """Stop sending: the client reads too slowly."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """Go on sending."""
        self._writing_paused = False
        self._resume_links()

    def _resume_links(self) -> None:
        for handler in list(self._links.values()):
            handler.on_resumed()
        self.wake()

    # As the links' owner

    @property
    def paused(self) -> bool:
        """Whether the peer has enough to read for now."""
        return self._writing_paused or self._unflushed_bytes > _WRITE_BUFFER_BYTES

    def sent(self, size: int) -> None:
        """Count bytes of messages given to the engine, and have them sent."""
        self._unflushed_bytes += size
        self.wake()

    def hold(self, size: int) -> None:
        """Count bytes of responses that wait, and hang up on a peer that lets them."""
        self._held_bytes += size
        if self._held_bytes > self._most_unread_bytes():
            self._drop_links()
            self._give_up(_NEVER_READS)

    def wake(self) -> None:
        """Send what the engine has, at the end of this round of the loop."""
        if not self._woken:
            self._woken = True
            self._loop.call_soon(self._on_woken)

    def reply_link(
        self, node: str, session: Any, name: str, reply_to: str | None
    ) -> ReplyLink | None:
        """Find where to answer: by reply-to, by link name, in the session, or on the node."""
        candidates = [
            link
            for link in self._links.values()
            if isinstance(link, ReplyLink) and link.node == node
        ]
        preferences = (
            lambda link: reply_to is not None and link.address == reply_to,
            lambda link: link.name in (reply_to, name),
            lambda link: link.session == session,
            lambda _: True,
        )
        for preferred in preferences:
            for link in candidates:
                if preferred(link):
                    return link
        return None

    @property
    def links(self) -> int:
        """How many links are attached."""
        return len(self._links)

    def shut_down(self) -> None:
        """Tell the client that the broker goes away, and hang up."""
        self._end_reason = "the broker is shutting down"
        try:
            self._engine.close(conditions.CONNECTION_FORCED, "The broker is shutting down.")
            self._flush()
        finally:
            self._transport.close()

    def close_links_to(self, paths: frozenset[str], refusal: Refused) -> None:
        """Detach the links whose queue is gone, those for its management included."""
        for link in [link for link in self._links if link_path(link) in paths]:
            self._detach(link, refusal)

    def _detach(self, link: Any, refusal: Refused) -> None:
        self._links[link].on_closed()
        close_link(link, refusal.condition, str(refusal))
        self.wake()

    def abort(self) -> None:
        """Hang up without a word."""
        self._transport.abort()

    # As the engine's handler

    def on_connection_opened(self) -> None:
        """Answer, and keep time from now on."""
        self._opened = True
        self._container = self._engine.peer_name()[:_LONGEST_NAME]
        _log.info(CONNECTION_OPENED, peer=self._peer, container=self._container)
        self._engine.open()
        if self._timer is not None:
            self._timer.cancel()
        self._tick()

    def on_connection_closed(self) -> None:
        """Answer the close; the socket follows when it is sent."""
        self._end_reason = f"closed by the peer: {self._engine.peer_error() or 'no error'}"
        self._engine.close()

    def on_session_opened(self, session: Any) -> None:
        """Answer."""
        open_session(session)

    def on_session_closed(self, session: Any) -> None:
        """Drop the session's links."""
        for link in [link for link in self._links if link_session(link) == session]:
            self._links.pop(link).on_closed()
        free_session(session)

    def on_link_opened(self, link: Any) -> None:
        """Serve the link, or say why not."""
        try:
            self._links[link] = attach(self, link, self._broker)
        except Refused as refusal:
            _log.info(LINK_REFUSED, peer=self._peer, reason=str(refusal))
            refuse_link(link, refusal.condition, str(refusal))

    def on_link_closed(self, link: Any) -> None:
        """Drop the link."""
        handler = self._links.pop(link, None)
        if handler is not None:
            handler.on_closed()
        free_link(link)

    def on_link_flow(self, link: Any) -> None:
        """Pass it on."""
        handler = self._links.get(link)
        if handler is not None:
            handler.on_flow()

    def on_delivery(self, link: Any, delivery: Any) -> None:
        """Pass it on."""
        handler = self._links.get(link)
        if handler is not None:
            handler.on_delivery(delivery)

    # Claims

    def _watch_claims(self) -> None:
        if self._claims_timer is not None:
            self._claims_timer.cancel()
            self._claims_timer = None
        now_s = time.time()
        expiry_s = self.claims.next_expiry_s(now_s)
        if expiry_s is not None:
            delay_s = min(expiry_s - now_s, _LONGEST_WATCH_S)
            self._claims_timer = self._loop.call_later(delay_s, self._on_claims_due)

    def _on_claims_due(self) -> None:
        now_s = time.time()
        for link in list(self._links):
            node = link_node(link)
            if node != cbs.NODE and not self.claims.cover(node, now_s):
                expired = f"ExpiredToken: the token for '{node}' has expired."
                self._detach(link, Unauthorized(expired))
        self._watch_claims()

    # Bytes and time

    def _on_woken(self) -> None:
        if self._transport.is_closing():
            return
        self._woken = False
        try:
            self._flush()
        except Exception:  # noqa: BLE001 - logged; ends this connection only
            self._contain()

    def _flush(self) -> None:
        self._engine.dispatch(self)
        while data := self._engine.output():
            self._transport.write(data)
        if self._transport.get_write_buffer_size() > self._most_unread_bytes():
            self._give_up(_NEVER_READS)
            return
        if self._engine.finished():
            self._transport.close()
        held_back = self._unflushed_bytes > _WRITE_BUFFER_BYTES
        self._unflushed_bytes = 0
        if held_back and not self._writing_paused:
            self._resume_links()

    def _most_unread_bytes(self) -> int:
        return _UNREAD_BYTES + self._broker.tier.largest_message_bytes

    def _tick(self) -> None:
        self._timer = None
        if self._transport.is_closing():
            return
        now_ms = time.monotonic_ns() // 1_000_000
        due_ms = self._engine.tick(now_ms)
        self.wake()
        if due_ms:
            self._timer = self._loop.call_later((due_ms - now_ms) / 1000, self._tick)

    def _on_handshake_timeout(self) -> None:
        self._timer = None
        if not self._opened:
            self._give_up("no open frame in time")

    def _give_up(self, reason: str) -> None:
        _log.warning(CONNECTION_REFUSED, peer=self._peer, reason=reason)
        self._end_reason = reason
        self.abort()

    def _hang_up(self) -> None:
        try:
            self._flush()
        except Exception:  # noqa: BLE001 - logged; ends this connection only
            self._contain()
        self._transport.close()

    def _contain(self) -> None:
        self._end_reason = "an error of ours"
        _log.exception(CONNECTION_FAILED, peer=self._peer)
        self.abort()
