"""Who may attach: SASL and ``$cbs``, service-bus-amqp-protocol-guide and service-bus-sas."""

import time

import proton
import pytest
from azure.core.credentials import AccessToken
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import ServiceBusAuthenticationError, ServiceBusError

from bpa.embedded.service_bus import ServiceBusEmulator
from tests.integration.embedded.conformance.peer import good_token, peer_of, signature
from tests.integration.embedded.service_bus import options_for

UNAUTHORIZED = "amqp:unauthorized-access"


@pytest.fixture
async def emulator():
    async with ServiceBusEmulator(options_for()) as running:
        yield running


@pytest.mark.parametrize("node", ["invoices", "invoices/$management", "invoices/$deadletterqueue"])
async def test_a_link_without_a_token_is_unauthorized(emulator, node):
    async with peer_of(emulator, authorised=False) as peer:
        condition = await peer.attached(peer.receiver(node))
        assert condition.name == UNAUTHORIZED
        assert "Listen" in condition.description


@pytest.mark.parametrize("kind", ["jwt", "servicebus.windows.net:sastoken"])
async def test_a_token_of_either_type_lets_a_link_to_its_entity_attach(emulator, kind):
    async with peer_of(emulator, authorised=False) as peer:
        audience = "sb://localhost/invoices"
        status, _ = await peer.put_token(audience, good_token(audience), kind)
        assert status == 202
        for node in ("invoices", "invoices/$management", "Invoices/$DeadLetterQueue"):
            assert await peer.attached(peer.receiver(node)) is None


async def test_a_token_for_another_entity_does_not(emulator):
    async with peer_of(emulator, authorised=False) as peer:
        await peer.put_token("sb://localhost/other", good_token())
        condition = await peer.attached(peer.sender("invoices"))
        assert condition.name == UNAUTHORIZED


@pytest.mark.parametrize(
    ("token", "kind", "expected"),
    [
        ("nonsense", "jwt", 401),
        (signature("sb://localhost/invoices", 1000), "servicebus.windows.net:sastoken", 401),
        (good_token("sb://localhost/other"), "servicebus.windows.net:sastoken", 401),
        (good_token(), "amqp:swt", 400),
        (None, "jwt", 401),
    ],
    ids=["nonsense", "expired", "elsewhere", "unknown-type", "none"],
)
async def test_a_token_that_is_no_good_is_refused(emulator, token, kind, expected):
    async with peer_of(emulator, authorised=False) as peer:
        status, description = await peer.put_token("sb://localhost/invoices", token, kind)
        assert (status, bool(description)) == (expected, True)
        assert (await peer.attached(peer.sender("invoices"))).name == UNAUTHORIZED


async def test_the_name_and_the_key_of_a_rule_open_everything_by_plain(emulator):
    async with peer_of(emulator) as peer:
        sender = peer.sender("invoices")
        assert await peer.attached(sender) is None
        delivery = await peer.send(sender, proton.Message(body=b"x").encode())
        assert delivery.remote_state == proton.Delivery.ACCEPTED


async def test_plain_without_a_key_is_refused(emulator):
    async with peer_of(
        emulator, authorised=False, user="name", password="", mechanism="PLAIN"
    ) as peer:
        sasl = peer.transport.sasl()
        await peer.until(lambda: sasl.outcome is not None)
        assert sasl.outcome == proton.SASL.AUTH


async def test_links_are_closed_as_unauthorized_when_their_token_expires(emulator):
    async with peer_of(emulator, authorised=False) as peer:
        audience = "sb://localhost/invoices"
        await peer.put_token(audience, signature(audience, time.time() + 2))
        links = [peer.sender("invoices"), peer.receiver("invoices")]
        for link in links:
            assert await peer.attached(link) is None
        for link in links:
            await peer.until(lambda link=link: link.state & proton.Endpoint.REMOTE_CLOSED)
            assert link.remote_condition.name == UNAUTHORIZED
            assert "ExpiredToken" in link.remote_condition.description


@pytest.mark.parametrize("node", ["invoices", "invoices/$management"])
async def test_what_comes_after_the_token_has_expired_is_dropped(emulator, node):
    request = proton.Message(
        id="i",
        annotations={proton.symbol("x-opt-scheduled-enqueue-time"): proton.timestamp(2**42)},
        properties={"operation": "com.microsoft:schedule-message"},
        body={"messages": [], "padding": b"x" * 600_000},
    )
    request.body["messages"].append(
        {"message": proton.Message(annotations=request.annotations).encode()}
    )
    async with peer_of(emulator, authorised=False) as peer:
        audience = "sb://localhost/invoices"
        await peer.put_token(audience, signature(audience, time.time() + 2))
        sender = peer.sender(node)
        assert await peer.attached(sender) is None
        split = peer.begin(sender)
        sender.send(request.encode()[:400_000])
        await peer.until(lambda: sender.state & proton.Endpoint.REMOTE_CLOSED)
        sender.send(request.encode()[400_000:])
        sender.advance()
        late = [split]
        for _ in range(3):
            late.append(peer.begin(sender))
            sender.send(request.encode())
            sender.advance()
        await peer.until(lambda: all(delivery.settled for delivery in late))
        assert not any(delivery.remote_state for delivery in late)
        counts = emulator._broker.queues["invoices"].counts()
        assert (counts.active, counts.scheduled) == (0, 0)


async def test_a_renewed_token_keeps_the_links_open(emulator):
    async with peer_of(emulator, authorised=False) as peer:
        audience = "sb://localhost/invoices"
        ends_s = int(time.time() + 2)
        await peer.put_token(audience, signature(audience, ends_s))
        renewed, other = peer.sender("invoices"), peer.receiver("invoices/$deadletterqueue")
        assert await peer.attached(renewed) is None
        assert await peer.attached(other) is None
        await peer.put_token(audience, good_token(audience))
        claims = next(iter(emulator._connections)).claims
        assert claims.cover("invoices", ends_s + 1)
        assert claims.next_expiry_s(time.time()) > ends_s


class Credential:
    """One that hands out a token as it is."""

    def __init__(self, token):
        self._token = token

    async def get_token(self, *_, **__):
        return AccessToken(self._token, 4_000_000_000)

    async def close(self):
        """Nothing is open."""


async def test_the_sdk_reports_an_expired_token_as_its_authentication_error(emulator):
    async with ServiceBusClient.from_connection_string(
        emulator.connection_string, retry_total=0
    ) as client:
        sender = client.get_queue_sender("invoices")
        sender._credential = Credential(signature("sb://localhost", 1000))
        with pytest.raises(ServiceBusAuthenticationError):
            await sender.send_messages(ServiceBusMessage("x"))
        await sender.close()


async def test_the_sdk_reports_a_token_for_another_entity_as_an_error(emulator):
    async with ServiceBusClient.from_connection_string(
        emulator.connection_string, retry_total=0
    ) as client:
        sender = client.get_queue_sender("invoices")
        sender._credential = Credential(good_token("sb://localhost/other"))
        with pytest.raises(ServiceBusError):
            await sender.send_messages(ServiceBusMessage("x"))
        await sender.close()
