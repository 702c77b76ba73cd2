"""Bodies that are no description of a queue: refused briefly, however long they are."""

import time

import aiohttp
import pytest

from tests.integration.embedded.service_bus import bus
from tests.integration.embedded.test_service_bus_administration import signature


def entry(content):
    return b'<entry xmlns="http://www.w3.org/2005/Atom"><content>%b</content></entry>' % content


def described(properties):
    connect = b"http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"
    tag = b"QueueDescription"
    return entry(b'<%b xmlns="%b">%b</%b>' % (tag, connect, properties, tag))


LONG = b"x" * 100_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"<entry/>",
        b"<a><b></a>",
        b'<!DOCTYPE e [<!ENTITY x "y">]><e>&x;</e>',
        entry(b"<Thing/>"),
        entry(b""),
        entry(b"<%b/>" % LONG),
        described(b"<%b/>" % LONG),
        described(b"".join(b"<a%d/>" % n for n in range(10_000))),
        described(b"<MaxDeliveryCount>0000000070000</MaxDeliveryCount>"),
        described(b"<MaxDeliveryCount>%b</MaxDeliveryCount>" % (b"1" * 100_000)),
    ],
    ids=range(12),
)
async def test_a_body_of_odd_bytes_is_a_bad_request(body):
    async with bus() as one, aiohttp.ClientSession() as session:
        headers = {"Authorization": signature(time.time() + 60)}
        base = f"http://127.0.0.1:{one.emulator.admin_port}"
        async with session.put(f"{base}/q", data=body, headers=headers) as response:
            assert response.status == 400
            text = await response.text()
            assert "<Detail>SubCode=40000. " in text
            assert len(text) < 5000
        async with session.delete(f"{base}/{'x' * 5000}", headers=headers) as response:
            assert response.status == 404
            assert len(await response.text()) < 500
        async with session.get(f"{base}/$Resources/queues?$top=x", headers=headers) as response:
            assert response.status == 400
