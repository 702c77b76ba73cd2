"""A bare AMQP client on qpid-proton's protocol engine, for what the SDKs never send."""

import asyncio
import contextlib
import time

import proton
from cproton import ffi, lib

BATCH_FORMAT = 0x80013700


class Peer:
    """One connection; ``until`` lets it talk until something is so."""

    def __init__(self, reader, writer, *, user=None, password=None, mechanism="ANONYMOUS"):
        self._reader, self._writer = reader, writer
        self.transport = proton.Transport()
        self.connection = proton.Connection()
        self._collector = proton.Collector()
        self.connection.collect(self._collector)
        self.connection.container = "peer"
        self.connection.hostname = "localhost"
        if user is not None:
            self.connection.user, self.connection.password = user, password
        sasl = self.transport.sasl()
        sasl.allow_insecure_mechs = True
        sasl.allowed_mechs(mechanism)
        self.transport.bind(self.connection)
        self.connection.open()
        self.session = self.connection.session()
        self.session.open()
        self._tags = 0

    async def until(self, so, wait_s=10):
        """Talk until ``so()``; return what it returned."""
        async with asyncio.timeout(wait_s):
            while True:
                self._send()
                found = so()
                if found:
                    return found
                data = await self._reader.read(65536)
                if not data:
                    with contextlib.suppress(proton.TransportException):
                        self.transport.close_tail()
                    self._drop_events()
                    found = so()
                    assert found, "the broker hung up"
                    return found
                self._take(data)

    def _take(self, data):
        while data:
            piece = data[: self.transport.capacity()]
            self.transport.push(piece)
            self._drop_events()
            data = data[len(piece) :]

    def _drop_events(self):
        while self._collector.peek():
            self._collector.pop()

    def _send(self):
        self._drop_events()
        while (pending := self.transport.pending()) > 0:
            self._writer.write(self.transport.peek(pending))
            self.transport.pop(pending)
            self._drop_events()

    def attach(self, link):
        link.open()
        return link

    async def attached(self, link):
        """Open a link; the error with which it was refused, or None."""
        link.open()
        await self.until(lambda: not link.state & proton.Endpoint.REMOTE_UNINIT)
        if link.remote_source.address is None and link.remote_target.address is None:
            await self.until(lambda: link.state & proton.Endpoint.REMOTE_CLOSED)
        return link.remote_condition

    def sender(self, address, name=None):
        link = self.session.sender(name or f"to-{address}-{time.monotonic_ns()}")
        link.target.address = address
        link.source.address = "here"
        return link

    def receiver(self, address, name=None, *, settled=False):
        link = self.session.receiver(name or f"from-{address}-{time.monotonic_ns()}")
        link.source.address = address
        link.target.address = "here"
        link.snd_settle_mode = proton.Link.SND_SETTLED if settled else proton.Link.SND_UNSETTLED
        link.rcv_settle_mode = proton.Link.RCV_SECOND
        return link

    def begin(self, link):
        """Begin a delivery."""
        self._tags += 1
        return link.delivery(str(self._tags))

    async def send(self, link, encoded):
        """Send one encoded message; its delivery once it is settled."""
        await self.until(lambda: link.credit > 0)
        delivery = self.begin(link)
        link.send(encoded)
        link.advance()
        await self.until(lambda: delivery.settled)
        return delivery

    async def receive(self, link, credit=1):
        """Take the next delivery; (delivery, encoded message)."""
        if credit:
            link.flow(credit)
        delivery = await self.until(
            lambda: link.current if link.current and not link.current.partial else None
        )
        encoded = link.recv(delivery.pending) if delivery.pending else b""
        link.advance()
        return delivery, encoded

    async def settle(self, delivery, state):
        """Put a delivery in a state and wait for the broker's; its outcome."""
        delivery.update(state)
        await self.until(lambda: delivery.settled)
        return delivery.remote_state

    async def put_token(self, audience, token, kind="servicebus.windows.net:sastoken"):
        """Put a token; (status, description)."""
        response = await self.request(
            "$cbs",
            properties={"operation": "put-token", "name": audience, "type": kind},
            body=token,
        )
        return response.properties["status-code"], response.properties["status-description"]

    async def request(self, node, *, properties, body):
        """Ask a node over a pair of links and return the decoded response."""
        sender, receiver = self.sender(node, "ask"), self.receiver(node, "ask")
        for link in (sender, receiver):
            condition = await self.attached(link)
            assert condition is None, condition
        request = proton.Message(id="1", properties=properties, body=body, reply_to="ask")
        await self.send(sender, request.encode())
        _, encoded = await self.receive(receiver)
        for link in (sender, receiver):
            link.close()
        await self.until(lambda: sender.state & receiver.state & proton.Endpoint.REMOTE_CLOSED)
        for link in (sender, receiver):
            link.free()
        response = proton.Message()
        response.decode(encoded)
        return response


def tag_of(delivery):
    """The bytes of a delivery's tag; the wrapper decodes them as text, which a GUID is not."""
    tag = lib.pn_delivery_tag(delivery._impl)
    return bytes(ffi.buffer(tag.start, tag.size))


def signature(resource, expires_s):
    return f"SharedAccessSignature sr={resource}&sig=x&se={int(expires_s)}&skn=any"


def good_token(resource="sb://localhost/"):
    return signature(resource, time.time() + 3600)


@contextlib.asynccontextmanager
async def peer_of(emulator, *, authorised=True, **options):
    """Connect; with ``authorised``, as the owner of a key."""
    if authorised:
        options = {"user": "RootManageSharedAccessKey", "password": "k", "mechanism": "PLAIN"}
    reader, writer = await asyncio.open_connection("127.0.0.1", emulator.port)
    peer = Peer(reader, writer, **options)
    try:
        yield peer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
