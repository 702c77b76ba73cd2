"""Responses of management nodes and the credit they leave on: AMQP 1.0, part 2, section 2.6.7."""

import proton
import pytest

from bpa.embedded.service_bus import connection as connections
from bpa.embedded.service_bus.attach import link_node
from tests.eventually import eventually
from tests.integration.embedded.conformance.peer import peer_of
from tests.integration.embedded.service_bus import bus

NODE = "invoices/$management"
BODY = 60_000


async def links_of(peer):
    """A pair of links on which to ask, without credit for answers."""
    sender, receiver = peer.sender(NODE, "ask"), peer.receiver(NODE, "ask")
    for link in (sender, receiver):
        assert await peer.attached(link) is None
    await peer.until(lambda: sender.credit > 0)
    return sender, receiver


def ask(peer, sender, *numbers):
    """Ask for the first message, several times."""
    for number in numbers:
        request = proton.Message(
            id=number,
            properties={"operation": "com.microsoft:peek-message"},
            body={"from-sequence-number": 1, "message-count": proton.int32(1)},
        )
        peer.begin(sender)
        sender.send(request.encode())
        sender.advance()


async def answered(peer, receiver, credit=0):
    """Which request the next response answers."""
    _, encoded = await peer.receive(receiver, credit)
    response = proton.Message()
    response.decode(encoded)
    assert response.properties["statusCode"] == 200
    return response.correlation_id


async def nothing_comes(peer, receiver):
    """Whether a later exchange on the connection is over before any response comes."""
    session = peer.connection.session()
    session.open()
    await peer.until(lambda: session.state & proton.Endpoint.REMOTE_ACTIVE)
    return receiver.current is None


async def test_a_response_leaves_as_soon_as_there_is_credit_for_it_and_no_other_does():
    async with bus() as one, peer_of(one.emulator) as peer:
        await one.send(b"x" * BODY)
        sender, receiver = await links_of(peer)
        ask(peer, sender, 1, 2, 3)
        for number in (1, 2, 3):
            assert await nothing_comes(peer, receiver)
            assert await answered(peer, receiver, credit=1) == number
        assert await nothing_comes(peer, receiver)


async def test_credit_given_before_the_request_is_used_at_once():
    async with bus() as one, peer_of(one.emulator) as peer:
        await one.send(b"x" * BODY)
        sender, receiver = await links_of(peer)
        receiver.flow(1)
        ask(peer, sender, 1, 2)
        assert await answered(peer, receiver) == 1
        assert await nothing_comes(peer, receiver)
        assert await answered(peer, receiver, credit=1) == 2


async def test_a_drain_gives_back_the_credit_for_which_there_is_no_response():
    async with bus() as one, peer_of(one.emulator) as peer:
        await one.send(b"x" * BODY)
        sender, receiver = await links_of(peer)
        ask(peer, sender, 1)
        assert await nothing_comes(peer, receiver)
        receiver.drain(5)
        assert await answered(peer, receiver) == 1
        await peer.until(lambda: receiver.credit == 0)


async def test_more_responses_than_a_buffer_holds_all_come_in_order():
    count = 60
    assert count * BODY > 3 * connections._WRITE_BUFFER_BYTES
    async with bus() as one, peer_of(one.emulator) as peer:
        await one.send(b"x" * BODY)
        sender, receiver = await links_of(peer)
        receiver.flow(count)
        ask(peer, sender, *range(count))
        assert [await answered(peer, receiver) for _ in range(count)] == list(range(count))


async def test_responses_that_nobody_reads_end_the_connection(monkeypatch):
    monkeypatch.setattr(connections, "_UNREAD_BYTES", 2 * 1024 * 1024)
    async with bus() as one, peer_of(one.emulator) as peer:
        await one.send(b"x" * BODY)
        sender, receiver = await links_of(peer)
        receiver.flow(1000)
        (served,) = [c for c in one.emulator._connections if NODE in map(link_node, c._links)]
        ask(peer, sender, *range(100))
        peer._send()
        await eventually(served.gone.done)
        assert served._end_reason == "the peer asks, and does not read the answers"
        assert served._held_bytes == 0


@pytest.mark.parametrize("count", [1, 100])
async def test_a_response_to_a_link_that_has_gone_is_dropped(count):
    async with bus() as one, peer_of(one.emulator) as peer:
        await one.send(b"x" * BODY)
        sender, receiver = await links_of(peer)
        ask(peer, sender, *range(count))
        assert await nothing_comes(peer, receiver)
        (served,) = [c for c in one.emulator._connections if c._held_bytes]
        receiver.close()
        await peer.until(lambda: receiver.state & proton.Endpoint.REMOTE_CLOSED)
        assert served._held_bytes == 0
