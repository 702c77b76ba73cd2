"""The AMQP engine: python-qpid-proton's C library, with no I/O and no reactor.

With ``deliveries``, the one module that touches the library. Deliveries and events, which come
per message, go through the C functions directly (the Python wrappers cost several times as much,
and decode a delivery's tag as UTF-8, which a GUID is not); links and sessions, which are rare, go
through the wrappers. A C pointer is only good while its link is; ``links`` keeps to that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cproton
import proton
from cproton import ffi, lib

SEND_SETTLED: int = cproton.PN_SND_SETTLED

_OUTPUT_BYTES = 256 * 1024
_NOTHING = ffi.NULL
_allocate = ffi.new_allocator(should_clear_after_alloc=False)


class ProtocolError(Exception):
    """The peer's bytes broke the protocol; the engine has an error frame for it, if any."""


class Handler:
    """What a connection does about the engine's events; each takes the C pointer it is about."""

    def on_connection_opened(self) -> None:
        """The peer has sent its open."""

    def on_connection_closed(self) -> None:
        """The peer has sent its close."""

    def on_session_opened(self, session: Any) -> None:
        """The peer has begun a session."""

    def on_session_closed(self, session: Any) -> None:
        """The peer has ended a session."""

    def on_link_opened(self, link: Any) -> None:
        """The peer has attached a link."""

    def on_link_closed(self, link: Any) -> None:
        """The peer has detached a link."""

    def on_link_flow(self, link: Any) -> None:
        """The peer has changed a link's credit."""

    def on_delivery(self, link: Any, delivery: Any) -> None:
        """Bytes of a delivery have come, or its state has changed."""


class Engine:
    """One connection's protocol state: bytes in, events to the handler, bytes out.

    Args:
        container_id: Our name in the open frame.
        max_frame_bytes: The largest frame we take.
        idle_timeout_ms: After how long a silent peer is given up.
    """

    def __init__(self, container_id: str, max_frame_bytes: int, idle_timeout_ms: int) -> None:
        self._transport = lib.pn_transport()
        self._connection = lib.pn_connection()
        self._collector = lib.pn_collector()
        lib.pn_connection_collect(self._connection, self._collector)
        cproton.pn_connection_set_container(self._connection, container_id)
        lib.pn_transport_set_server(self._transport)
        lib.pn_transport_set_max_frame(self._transport, max_frame_bytes)
        lib.pn_transport_set_idle_timeout(self._transport, idle_timeout_ms)
        lib.pn_transport_bind(self._transport, self._connection)
        self._freed = False

    def feed(self, data: bytes, handler: Handler) -> None:
        """Take bytes in and report what they mean.

        Raises:
            ProtocolError: The engine takes no more; send its output, then hang up.
        """
        view = memoryview(data)
        while view:
            room = lib.pn_transport_capacity(self._transport)
            if room <= 0:
                raise ProtocolError(self.error() or "the peer sent bytes behind its close")
            piece = view[:room]
            taken = lib.pn_transport_push(self._transport, ffi.from_buffer(piece), len(piece))
            if taken < 0:
                raise ProtocolError(self.error() or "the engine refused the bytes")
            view = view[taken:]
            self.dispatch(handler)

    def dispatch(self, handler: Handler) -> None:
        """Report the events that are waiting."""
        while True:
            event = lib.pn_collector_peek(self._collector)
            if event == _NOTHING:
                return
            try:
                route = _ROUTES.get(lib.pn_event_type(event))
                if route is not None:
                    route(handler, event)
            finally:
                lib.pn_collector_pop(self._collector)

    def output(self) -> bytes:
        """Return bytes for the peer; empty when there are none."""
        pending = lib.pn_transport_pending(self._transport)
        if pending <= 0:
            return b""
        most = min(pending, _OUTPUT_BYTES)
        output = _allocate("char[]", most)  # kept, it would cost every idle connection 256 KiB
        size = lib.pn_transport_peek(self._transport, output, most)
        if size <= 0:
            return b""
        data = bytes(ffi.buffer(output, size))
        lib.pn_transport_pop(self._transport, size)
        return data

    def finished(self) -> bool:
        """Whether no more output can come."""
        return int(lib.pn_transport_pending(self._transport)) < 0

    def tick(self, now_ms: int) -> int:
        """Send a heartbeat or give the peer up, if due; return when next to call, 0 for never."""
        return int(lib.pn_transport_tick(self._transport, now_ms))

    def error(self) -> str | None:
        """Return what the transport failed of, if it did."""
        condition = lib.pn_transport_condition(self._transport)
        if not lib.pn_condition_is_set(condition):
            return None
        name = cproton.pn_condition_get_name(condition)
        return f"{name}: {cproton.pn_condition_get_description(condition)}"

    def peer_name(self) -> str:
        """Return the container id in the peer's open."""
        return str(cproton.pn_connection_remote_container(self._connection))

    def peer_error(self) -> str | None:
        """Return what the peer closed the connection for, if it said so."""
        condition = lib.pn_connection_remote_condition(self._connection)
        if not lib.pn_condition_is_set(condition):
            return None
        return str(cproton.pn_condition_get_name(condition))

    def close_input(self, handler: Handler) -> None:
        """Say that no more bytes will come."""
        lib.pn_transport_close_tail(self._transport)
        self.dispatch(handler)

    def open(self) -> None:
        """Answer the peer's open."""
        lib.pn_connection_open(self._connection)

    def close(self, condition: str | None = None, description: str = "") -> None:
        """Send a close frame, with an error if there is a condition.

        All three fields of an error are there: the Python SDK takes the third for granted, and a
        receive that waits would end with an IndexError, which nobody retries.
        """
        if condition is not None:
            target = lib.pn_connection_condition(self._connection)
            cproton.pn_condition_set_name(target, condition)
            cproton.pn_condition_set_description(target, description)
            info: Any = proton.Data(cproton.pn_condition_info(target))
            info.put_object({proton.symbol("com.microsoft:description"): description})
        lib.pn_connection_open(self._connection)
        lib.pn_connection_close(self._connection)

    def free(self) -> None:
        """Give the C objects back; no pointer of this connection may be used afterwards."""
        if self._freed:
            return
        self._freed = True
        lib.pn_transport_unbind(self._transport)
        lib.pn_collector_release(self._collector)
        lib.pn_connection_release(self._connection)
        lib.pn_decref(self._connection)
        lib.pn_decref(self._transport)
        lib.pn_collector_free(self._collector)


def _session_route(call: Callable[[Handler, Any], None]) -> Callable[[Handler, Any], None]:
    return lambda handler, event: call(handler, lib.pn_event_session(event))


def _link_route(call: Callable[[Handler, Any], None]) -> Callable[[Handler, Any], None]:
    return lambda handler, event: call(handler, lib.pn_event_link(event))


def _on_delivery(handler: Handler, event: Any) -> None:
    delivery = lib.pn_event_delivery(event)
    handler.on_delivery(lib.pn_delivery_link(delivery), delivery)


_ROUTES: dict[int, Callable[[Handler, Any], None]] = {
    cproton.PN_CONNECTION_REMOTE_OPEN: lambda handler, _: handler.on_connection_opened(),
    cproton.PN_CONNECTION_REMOTE_CLOSE: lambda handler, _: handler.on_connection_closed(),
    cproton.PN_SESSION_REMOTE_OPEN: _session_route(lambda h, s: h.on_session_opened(s)),
    cproton.PN_SESSION_REMOTE_CLOSE: _session_route(lambda h, s: h.on_session_closed(s)),
    cproton.PN_LINK_REMOTE_OPEN: _link_route(lambda h, link: h.on_link_opened(link)),
    cproton.PN_LINK_REMOTE_CLOSE: _link_route(lambda h, link: h.on_link_closed(link)),
    cproton.PN_LINK_REMOTE_DETACH: _link_route(lambda h, link: h.on_link_closed(link)),
    cproton.PN_LINK_FLOW: _link_route(lambda h, link: h.on_link_flow(link)),
    cproton.PN_DELIVERY: _on_delivery,
}

# Sessions and links


def open_session(session: Any) -> None:
    """Answer a begin."""
    lib.pn_session_open(session)


def free_session(session: Any) -> None:
    """Answer an end and give the session's memory back, with that of its links."""
    lib.pn_session_close(session)
    lib.pn_session_free(session)


def link_session(link: Any) -> Any:
    """Return the session a link belongs to."""
    return lib.pn_link_session(link)


def sends(link: Any) -> bool:
    """Whether we are the sender on this link."""
    return bool(lib.pn_link_is_sender(link))


def describe(link: Any) -> Any:
    """Return the wrapper of a link, for what happens once in its life."""
    return proton.Link.wrap(link)  # type: ignore[no-untyped-call]


def accept_link(
    link: Any,
    *,
    max_message_bytes: int | None = None,
    properties: dict[proton.symbol, Any] | None = None,
) -> None:
    """Answer an attach by mirroring it, as clients expect.

    Args:
        link: The link.
        max_message_bytes: The largest message we take, on a link that brings us messages.
        properties: What else there is to say of the link.
    """
    wrapper = describe(link)
    wrapper.source.copy(wrapper.remote_source)
    wrapper.target.copy(wrapper.remote_target)
    wrapper.snd_settle_mode = wrapper.remote_snd_settle_mode
    wrapper.rcv_settle_mode = wrapper.remote_rcv_settle_mode
    if max_message_bytes is not None:
        wrapper.max_message_size = max_message_bytes
    if properties is not None:
        wrapper.properties = properties
    wrapper.open()


def refuse_link(link: Any, condition: str, description: str) -> None:
    """Answer an attach with one that has no source and no target, and a detach that says why."""
    wrapper = describe(link)
    wrapper.source.type = proton.Terminus.UNSPECIFIED
    wrapper.target.type = proton.Terminus.UNSPECIFIED
    wrapper.open()
    wrapper.condition = proton.Condition(condition, description)
    wrapper.close()


def free_link(link: Any) -> None:
    """Answer a detach and give the link's memory back; the pointer is dead afterwards."""
    lib.pn_link_close(link)
    lib.pn_link_free(link)


def source_filters(link: Any) -> list[str]:
    """Return the names of the filters the receiver asks for."""
    data = describe(link).remote_source.filter
    data.rewind()
    found = data.get_object() if data.next() else None
    return [str(name) for name in found] if isinstance(found, dict) else []


def coordinates(link: Any) -> bool:
    """Whether the link is one on which transactions are declared."""
    return bool(describe(link).remote_target.type == proton.Terminus.COORDINATOR)


def credit(link: Any) -> int:
    """Return how many deliveries the receiving side still takes."""
    return int(lib.pn_link_credit(link))


def grant(link: Any, count: int) -> None:
    """Let the peer send ``count`` more deliveries."""
    lib.pn_link_flow(link, count)


def draining(link: Any) -> bool:
    """Whether the receiver wants its unused credit back."""
    return bool(lib.pn_link_get_drain(link))


def give_credit_back(link: Any) -> None:
    """Answer a drain."""
    lib.pn_link_drained(link)


def close_link(link: Any, condition: str, description: str) -> None:
    """Detach a link of ours with an error; the peer's answer frees it."""
    wrapper = describe(link)
    wrapper.condition = proton.Condition(condition, description)
    wrapper.close()
