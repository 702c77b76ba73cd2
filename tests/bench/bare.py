"""A bare AMQP 1.0 client, one that costs little: proton's C functions over a blocking socket."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import proton
from cproton import ffi, lib

BODY_BYTES = 1024
_CREDIT = 1000
_UNSETTLED = 1000
_SOCKET_BYTES = 256 * 1024
_WAIT_S = 60.0


class BareClient:
    """One connection with a sender's and a receiver's link to one address.

    Args:
        port: Of a broker on this machine.
        address: Of a queue, as this broker writes it.
        durable: What the header of each message says.
        waits: Whether the broker confirms that a delivery is settled, so that we wait for it.
        body_bytes: How large each message's body is.
    """

    def __init__(
        self,
        port: int,
        address: str,
        *,
        durable: bool,
        waits: bool = True,
        body_bytes: int = BODY_BYTES,
    ) -> None:
        message = proton.Message(id="m", durable=durable, body=b"x" * body_bytes)
        self._encoded = message.encode()
        self._waits = waits
        self._begun = 0
        self._settled = 0
        self._arrived: list[Any] = []
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(_WAIT_S)
        self._connect()
        self._sender = self._attach(self._session.sender("to"), target=address)
        self._receiver = self._attach(self._session.receiver("from"), source=address)

    def _connect(self) -> None:
        self._transport = proton.Transport()
        self._connection = proton.Connection()
        self._collector = lib.pn_collector()
        lib.pn_connection_collect(self._connection._impl, self._collector)
        self._connection.container, self._connection.hostname = "bench", "localhost"
        self._connection.user = self._connection.password = "guest"
        sasl = self._transport.sasl()
        sasl.allow_insecure_mechs = True
        sasl.allowed_mechs("PLAIN")
        self._transport.bind(self._connection)
        self._connection.open()
        self._session = self._connection.session()
        self._session.open()

    def _attach(self, link: Any, *, source: str = "here", target: str = "here") -> Any:
        link.source.address, link.target.address = source, target
        link.snd_settle_mode = link.SND_UNSETTLED
        link.open()
        self._until(lambda: bool(link.state & link.REMOTE_ACTIVE))
        return link._impl

    def close(self) -> None:
        """Close the connection; what is not settled goes back to the queue."""
        self._connection.close()
        self._until(lambda: bool(self._connection.state & self._connection.REMOTE_CLOSED))
        self._socket.close()

    def send(self, count: int) -> None:
        """Send so many, up to a thousand of them unsettled; return when all are accepted."""
        to_begin, wanted = count, self._settled + count
        while self._settled < wanted:
            unsettled = wanted - to_begin - self._settled
            for _ in range(min(to_begin, _UNSETTLED - unsettled, lib.pn_link_credit(self._sender))):
                self._begin()
                to_begin -= 1
            self._talk()

    def _begin(self) -> None:
        self._begun += 1
        tag = b"%d" % self._begun
        lib.pn_delivery(self._sender, (len(tag), ffi.from_buffer(tag)))
        lib.pn_link_send(self._sender, ffi.from_buffer(self._encoded), len(self._encoded))
        lib.pn_link_advance(self._sender)

    def receive(self, count: int) -> None:
        """Receive so many and accept each; return when all are settled."""
        to_grant, wanted = count, self._settled + count
        while self._settled < wanted:
            credit = lib.pn_link_credit(self._receiver)
            if to_grant and credit <= _CREDIT // 2:
                more = min(_CREDIT - credit, to_grant)
                lib.pn_link_flow(self._receiver, more)
                to_grant -= more
            self._talk()
            arrived, self._arrived = self._arrived, []
            for delivery in arrived:
                lib.pn_delivery_update(delivery, proton.Delivery.ACCEPTED)
                if not self._waits:
                    self._settle(delivery)
        self._flush()

    def _until(self, so: Callable[[], bool]) -> None:
        while not so():
            self._talk()

    def _talk(self) -> None:
        """Send what there is to send; then wait for something, unless something has come."""
        self._flush()
        if self._take_events():
            return
        data = self._socket.recv(_SOCKET_BYTES)
        if not data:
            raise ConnectionError("the broker hung up")
        while data:
            piece = data[: self._transport.capacity()]
            self._transport.push(piece)
            data = data[len(piece) :]
        self._take_events()

    def _flush(self) -> None:
        while (pending := self._transport.pending()) > 0:
            data = self._transport.peek(min(pending, _SOCKET_BYTES)) or b""
            self._socket.sendall(data)
            self._transport.pop(len(data))

    def _take_events(self) -> bool:
        before = self._settled + len(self._arrived)
        while (event := lib.pn_collector_peek(self._collector)) != ffi.NULL:
            if lib.pn_event_type(event) == lib.PN_DELIVERY:
                self._take(lib.pn_event_delivery(event))
            lib.pn_collector_pop(self._collector)
        return self._settled + len(self._arrived) > before

    def _take(self, delivery: Any) -> None:
        if lib.pn_delivery_settled(delivery):
            assert lib.pn_delivery_remote_state(delivery) in (0, proton.Delivery.ACCEPTED)
            self._settle(delivery)
        elif lib.pn_delivery_readable(delivery) and not lib.pn_delivery_partial(delivery):
            size = lib.pn_delivery_pending(delivery)
            room = ffi.new("char[]", size)
            lib.pn_link_recv(self._receiver, room, size)
            lib.pn_link_advance(self._receiver)
            self._arrived.append(delivery)

    def _settle(self, delivery: Any) -> None:
        lib.pn_delivery_settle(delivery)
        self._settled += 1
