"""The real model stub and target API, and what a broker needs beside them."""

import asyncio
import contextlib
import json
from collections import Counter
from pathlib import Path

import aiohttp
import anthropic
import httpx2
import msgspec

from bpa.connectors.http_out import HttpOut
from bpa.documents.decoding import decode
from bpa.documents.wire import to_wire
from bpa.domain.journal import Step
from bpa.embedded.anthropic.server import AnthropicStub, StubOptions
from bpa.embedded.target.server import TargetApi, TargetOptions
from bpa.node.model_calls import ModelCalls
from bpa.node.model_transport import AiohttpTransport
from bpa.node.outlets import Outlets
from bpa.node.pricing import Prices
from bpa.node.providers import AnthropicProvider
from bpa.retry import RetryPolicy

ROUTES = ["hosting", "general", "it"]
INVOICE = {
    "invoice_id": "NB-2026-0117",
    "vendor": "Nordbyte Cloud Hosting GmbH",
    "currency": "EUR",
    "total": "1234.50",
    "issued_on": "2026-03-12",
    "buyer": "Hallmark Trading Ltd",
    "lines": [{"description": "Hosting", "quantity": 2, "amount": "617.25"}],
}
DOCUMENT = decode(json.dumps(INVOICE).encode(), "application/json")
WIRE = to_wire(DOCUMENT)
PRICES = Prices.parse(Path("config/prices.toml").read_text("utf-8"))


class Counts:
    """Counts what a node measures."""

    def __init__(self):
        self.tokens, self.replayed, self.exceeded = 0, Counter(), []

    def model_asked(self, agent, model):
        pass

    def model_answered(self, agent, model, usage):
        self.tokens += usage.total_tokens

    def step_replayed(self, kind):
        self.replayed[str(kind)] += 1

    def budget_exceeded(self, kind):
        self.exceeded.append(str(kind))


class RecordingLease:
    """A lease that is good while a test says so, and keeps the steps as Postgres would."""

    def __init__(self, offer):
        self.offer = offer
        self.is_good = True
        self.stopped = asyncio.get_running_loop().create_future()
        self.reported = []
        self.steps: dict[int, Step] = {}
        self.before_report = lambda what: None

    async def report(self, what):
        self.before_report(what)
        self.reported.append(what)
        self.steps[what.seq] = what

    @property
    def journal(self):
        return [msgspec.json.decode(msgspec.json.encode(s), type=Step) for s in self.steps.values()]


class Outside:
    """Stub, target, and the outlets that lead to them."""

    def __init__(self, stub, target, session, outlets, counts):
        self.stub, self.target, self.session = stub, target, session
        self.outlets, self.counts = outlets, counts

    async def script_model(self, *rules):
        await self._put(f"{self.stub.url}/_stub/script", {"rules": list(rules)})

    async def script_target(self, *rules):
        await self._put(f"{self.target.url}/_target/script", {"rules": list(rules)})

    async def received(self):
        return (await self._get(f"{self.target.url}/_target/received"))["items"]

    async def tries(self):
        return (await self._get(f"{self.target.url}/_target/tries"))["items"]

    async def model_requests(self):
        """Return (endpoint, outcome) of every request, in order."""
        ledger = await self._get(f"{self.stub.url}/_stub/ledger")
        return [(e["endpoint"].removeprefix("/v1/"), e["outcome"]) for e in ledger["entries"]]

    async def model_totals(self):
        """Return the provider's own account."""
        return (await self._get(f"{self.stub.url}/_stub/ledger"))["totals"]

    async def _put(self, url, body):
        async with self.session.put(url, json=body) as response:
            assert response.status == 200, await response.text()

    async def _get(self, url):
        async with self.session.get(url) as response:
            assert response.status == 200, await response.text()
            return await response.json()


@contextlib.asynccontextmanager
async def outside(*, timeout_s=5.0, lean=False, model_url=None, api_key="a-secret-key"):
    """Serve the stub and the target, and lead there (or to another model) with quick retries."""
    quick = RetryPolicy(base_s=0.01, cap_s=0.02, retry_after_cap_s=0.05)
    counts = Counts()
    async with contextlib.AsyncExitStack() as stack:
        stub = await stack.enter_async_context(AnthropicStub(StubOptions(finish_s=0.1)))
        target = await stack.enter_async_context(TargetApi(TargetOptions(finish_s=0.1)))
        session = await stack.enter_async_context(
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        )
        http = httpx2.AsyncClient(transport=AiohttpTransport(session)) if lean else None
        client = await stack.enter_async_context(
            anthropic.AsyncAnthropic(
                api_key=api_key,
                base_url=model_url or stub.url,
                max_retries=0,
                timeout=timeout_s,
                http_client=http,
            )
        )
        outlets = Outlets(
            models=ModelCalls({"anthropic": AnthropicProvider(client)}, policy=quick),
            sink=HttpOut(session, policy=quick, timeout_s=timeout_s),
            prices=PRICES,
            measures=counts,
            target_url=f"{target.url}/invoices",
        )
        yield Outside(stub, target, session, outlets, counts)
