"""Control's REST API over a real socket, and a client of it."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
from yarl import URL

from bpa.connectors.service_bus import (
    BacklogReader,
    DeadLetterLocks,
    DeadLetterReader,
    ServiceBusPublisher,
)
from bpa.control.changes import Changes
from bpa.control.dead_letters import DeadLetters
from bpa.control.disclosure import Disclosure, Show
from bpa.control.http import Services, create_app
from bpa.control.looking import Looking
from bpa.control.operations import Operations
from bpa.control.queues import Queues
from bpa.control.readiness import State
from bpa.control.replaying import Replaying
from bpa.control.replays import Replays
from bpa.control.trends import Trends
from bpa.telemetry.metrics import Metrics
from bpa.telemetry.redaction import redactor
from bpa.ui.app import pages
from bpa.ui.views.run_facts import Outside
from bpa.web_server import serve_http
from tests.integration.control.fleet import Fleet

NO_BUS = (
    "Endpoint=sb://localhost:1;SharedAccessKeyName=n;SharedAccessKey=k;UseDevelopmentEmulator=true"
)
"""A namespace that does not answer."""
NOWHERE = Outside()
MASKED = frozenset({"buyer", "reason"})
PROBLEM = "application/problem+json"


@dataclass(slots=True)
class Answer:
    """A response, read to its end."""

    status: int
    headers: Any
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass(slots=True)
class Rest:
    """A client, the services behind the server, and what they were told."""

    url: str
    session: aiohttp.ClientSession
    services: Services
    told: list[str]

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.request("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> Answer:
        if body is not None:
            options["json"] = body
        return await self.request("POST", path, **options)

    async def request(self, method: str, path: str, **options: Any) -> Answer:
        async with self.session.request(method, path, **options) as response:
            return Answer(response.status, response.headers, await response.text())

    async def raw(self, *pieces: bytes) -> bytes:
        """Send bytes as they are, and return the answer."""
        url = URL(self.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            async with asyncio.timeout(10):
                head = await reader.readuntil(b"\r\n\r\n")
                (length,) = re.findall(rb"content-length: (\d+)", head)
                return head + await reader.readexactly(int(length))
        finally:
            writer.close()
            await writer.wait_closed()

    def fenced(self) -> float:
        """How many reports were refused for their stale lease."""
        return self.services.metrics.leases_fenced._value.get()


@asynccontextmanager
async def rest_over(
    fleet: Fleet,
    state: Callable[[], State] = State,
    bus: str = NO_BUS,
    *,
    show: Show = Show.HIDDEN,
    outside: Outside = NOWHERE,
) -> AsyncIterator[Rest]:
    """Serve REST over the services of a fleet, on any free port."""
    told: list[str] = []
    looking = Looking(fleet.pool, Disclosure(show, MASKED, redactor(["a-secret-of-control"])))
    metrics, replays = Metrics(), Replays(fleet.pool)
    queues = Queues("dev", fleet.pool, BacklogReader(bus, None), metrics, every_s=20.0)
    reader = partial(DeadLetterReader, bus)
    changes = Changes(fleet.pool, silent_after_s=6.0)
    dead_letters = DeadLetters("dev", "ns", fleet.deployments, replays, reader)
    replaying = Replaying(
        dead_letters,
        replays,
        fleet.burials,
        fleet.runs,
        partial(DeadLetterLocks, bus),
        partial(ServiceBusPublisher, bus),
        metrics,
    )
    services = Services(
        agents=fleet.agents,
        breakers=fleet.breakers,
        changes=changes,
        deployments=fleet.deployments,
        revisions=fleet.revisions,
        simulations=fleet.simulations,
        nodes=fleet.nodes,
        drains=fleet.drains,
        leases=fleet.leases,
        offers=fleet.offers,
        runs=fleet.runs,
        history=fleet.history,
        looking=looking,
        searches=fleet.searches,
        costs=fleet.costs,
        dead_letters=dead_letters,
        replaying=replaying,
        operations=Operations(fleet.pool, fleet.searches, dead_letters, replaying),
        queues=queues,
        trends=Trends(fleet.pool),
        metrics=metrics,
        state=state,
        deployments_changed=lambda: told.append("deployments_changed"),
        woken=lambda: told.append("woken"),
        operation_started=lambda: told.append("operation_started"),
        heartbeat_every_s=3.0,
    )
    ui = pages(services, "dev", outside)
    app = ui.sharing(create_app(services, ui.handlers, ui.exception_handlers))
    looks = asyncio.ensure_future(changes.run())
    try:
        async with serve_http(app, "127.0.0.1", 0, "control.http_port") as url:
            timeout = aiohttp.ClientTimeout(total=20)
            async with aiohttp.ClientSession(url, timeout=timeout) as session:
                yield Rest(url, session, services, told)
    finally:
        looks.cancel()
        await asyncio.wait({looks})
