"""http.out passes the suite for sinks against the target API."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from bpa.connectors import OutboundRequest
from bpa.connectors.conformance import Applied, Behaviour, SinkConformance, SinkHarness
from bpa.connectors.http_out import HttpOut
from bpa.embedded.target import TargetApi

RULES = {
    Behaviour.APPLY_AND_VANISH: {"times": 1, "drop": "after"},
    Behaviour.FAIL_FOR_NOW: {"times": 1, "status": 503},
    Behaviour.REFUSE: {"times": 1, "status": 422},
}


async def at_once(_: float) -> None:
    """Spend no time between tries."""


@dataclass
class Target:
    sink: HttpOut
    url: str
    control: aiohttp.ClientSession

    def request(
        self, key: str, number: int = 0, *, deadline_s: float | None = None
    ) -> OutboundRequest:
        invoice = {
            "run_id": key.partition(":")[0],
            "invoice_id": f"INV-{number}",
            "vendor": "Acme Ltd",
            "route": "standard",
            "confidence": 0.9,
            "currency": "EUR",
            "total": "12.50",
            "issued_on": "2026-11-22",
            "kind": "invoice",
        }
        return OutboundRequest(
            url=f"{self.url}/invoices",
            body=json.dumps(invoice).encode(),
            idempotency_key=key,
            deadline_s=deadline_s,
        )

    async def script(self, behaviours: Sequence[Behaviour]) -> None:
        rules = {"rules": [RULES[behaviour] for behaviour in behaviours]}
        async with self.control.put(f"{self.url}/_target/script", json=rules) as answer:
            assert answer.status == 200, await answer.text()

    async def applied(self) -> list[Applied]:
        async with self.control.get(f"{self.url}/_target/received?limit=1000") as answer:
            items = (await answer.json())["items"]
        return [Applied(item["key"], json.dumps(item["body"]).encode()) for item in items]


class TestHttpOut(SinkConformance):
    @asynccontextmanager
    async def harness(self) -> AsyncIterator[SinkHarness]:
        async with (
            TargetApi() as target,
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        ):
            sink = HttpOut(session, sleep=at_once)
            yield Target(sink, target.url, session)
