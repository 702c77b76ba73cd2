"""Control over stores that come late, freeze, restart and lose everything: all of them real."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from msgspec.structs import replace

from bpa.cli.serve import _first_known
from bpa.clocks import Clocks, boottime_s
from bpa.config import Postgres, Settings
from bpa.connectors import OutgoingMessage
from bpa.connectors.service_bus import ServiceBusPublisher
from bpa.domain.specs import NodeSpec
from bpa.errors import BpaError, StartupError, Unavailable
from bpa.node.link import ControlLink
from bpa.postgres import connections
from bpa.roles.control import Control, Listening, control, listening
from bpa.telemetry.metrics import Metrics
from bpa.telemetry.pulse import Pulse
from tests.eventually import eventually
from tests.integration.control.fleet import AGENT, DEPLOYMENT
from tests.integration.roles.stores import Stores, stores_of

GOOD = b'{"invoice_id": "A-1", "currency": "EUR", "total": "10.00", "issued_on": "2026-01-02"}'
NODE = NodeSpec(node_id="node-1", boot_id="boot-1", slots=4)


@pytest.fixture
async def stores(old_data_dir: Path) -> AsyncIterator[Stores]:
    async with stores_of(old_data_dir) as stores:
        yield stores


@dataclass
class Replica:
    """A control replica, and a client of its REST."""

    here: Listening
    session: aiohttp.ClientSession

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.session.get(path) as response:
            body = await response.json()
            if response.status == 503 and path.startswith("/v1"):
                assert response.headers["Content-Type"] == "application/problem+json"
                assert response.headers["Retry-After"] == "2"
            return response.status, body

    async def ready(self, within_s: float = 20.0) -> None:
        async def probe() -> bool:
            status, body = await self.get("/readyz")
            assert status == 200, body
            return True

        await eventually(probe, within_s=within_s, every_s=0.1)

    async def waits_for(self, *names: str, within_s: float = 20.0) -> list[str]:
        """Wait until it says that it waits for these stores and for no other."""

        async def probe() -> list[str]:
            status, body = await self.get("/readyz")
            assert status == 503
            assert len(body["reasons"]) == len(names), body
            assert all(n in reason for n, reason in zip(names, body["reasons"], strict=True)), body
            return list(body["reasons"])

        reasons = await eventually(probe, within_s=within_s, every_s=0.1)
        assert (await self.get("/livez"))[0] == 200
        return reasons


@asynccontextmanager
async def replica_of(settings: Settings) -> AsyncIterator[Replica]:
    async with listening(settings, Pulse(Metrics())) as here:
        timeout = aiohttp.ClientTimeout(total=15)  # it never hangs
        async with aiohttp.ClientSession(here.http, timeout=timeout) as session:
            yield Replica(here, session)


@asynccontextmanager
async def at_work(stores: Stores) -> AsyncIterator[tuple[Replica, Control]]:
    """A replica at its place, with all stores there and an agent deployed."""
    await stores.start_postgres()
    await stores.start_valkey()
    await stores.start_bus()
    async with replica_of(stores.settings) as replica:
        await replica.here.started()
        async with control(replica.here.plane) as running:
            await replica.ready()
            await running.plane.agents.create(AGENT)
            await running.plane.deployments.create(DEPLOYMENT)
            running.plane.ingest.deployments_changed()
            yield replica, running


def node_of(running: Control) -> ControlLink:
    return ControlLink(address=running.grpc, node=NODE, log=structlog.get_logger())


async def send(settings: Settings) -> None:
    address = settings.service_bus.connection_string
    async with ServiceBusPublisher(address, "invoices") as publisher:
        await publisher.send([OutgoingMessage(body=GOOD)])


async def arrived(replica: Replica, count: int) -> None:
    """Wait until that many runs are there."""

    async def probe() -> bool:
        status, body = await replica.get("/v1/runs")
        assert status == 200, body
        assert len(body["runs"]) == count, body
        return True

    await eventually(probe, within_s=40, every_s=0.1)


async def test_stores_may_come_in_any_order_and_the_place_is_taken_as_each_comes(stores: Stores):
    async with replica_of(stores.settings) as replica:
        assert (await replica.get("/livez"))[0] == 200
        await replica.waits_for("Postgres", "Valkey")
        assert (await replica.get("/startupz"))[0] == 503
        status, problem = await replica.get("/v1/runs")
        assert status == 503
        assert "Postgres" in problem["detail"]

        await stores.start_postgres()
        await replica.waits_for("Valkey")
        assert (await replica.get("/startupz"))[0] == 200
        status, page = await replica.get("/v1/runs")
        assert (status, page["runs"], page["nextCursor"]) == (200, [], None)
        await replica.here.started()
        async with control(replica.here.plane) as running:
            async with node_of(running) as node:
                await node.register()  # nodes are served while Valkey is away
            await running.plane.agents.create(AGENT)
            await running.plane.deployments.create(DEPLOYMENT)
            running.plane.ingest.deployments_changed()

            async def degraded() -> bool:
                return "queue 'invoices'" in str((await replica.get("/readyz"))[1]["degraded"])

            await eventually(degraded, within_s=20, every_s=0.1)
            await stores.start_valkey()
            await replica.ready()
            assert (await replica.get("/readyz"))[1]["degraded"], "the queue is no reason"

            await stores.start_bus()
            await send(stores.settings)
            await arrived(replica, 1)
            assert (await replica.get("/readyz"))[1]["degraded"] == []


async def test_a_refused_login_is_told_from_an_outage_and_waited_out(stores: Stores):
    settings = stores.settings
    wrong = settings.postgres.dsn.replace("postgresql://bpa@", "postgresql://nobody@")
    await stores.start_postgres()
    async with replica_of(replace(settings, postgres=Postgres(dsn=wrong))) as replica:

        async def refused() -> bool:
            reasons = (await replica.get("/readyz"))[1]["reasons"]
            assert "mend postgres.dsn" in reasons[0], reasons
            assert '"nobody"' in reasons[0]
            return True

        await eventually(refused, within_s=20, every_s=0.1)


@pytest.mark.parametrize("name", ["postgres", "valkey"])
async def test_a_store_that_freezes_is_noticed_and_forgiven(
    stores: Stores, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(connections, "ANSWER_TIMEOUT_S", 4.0)
    async with at_work(stores) as (replica, running), node_of(running) as node:
        await node.register()
        with stores.frozen(name):
            await replica.waits_for(name.capitalize())
            if name == "postgres":
                assert (await replica.get("/v1/runs"))[0] == 503
                with pytest.raises(Unavailable):
                    await node.heartbeat([], draining=False, timeout_s=20)
            else:
                assert (await replica.get("/v1/runs"))[0] == 200
                await node.heartbeat([], draining=False, timeout_s=20)
            await send(stores.settings)
        await replica.ready()
        await arrived(replica, 1)
        await eventually(lambda: _beats(node), within_s=20, every_s=0.1)


async def _beats(node: ControlLink) -> bool:
    try:
        await node.heartbeat([], draining=False, timeout_s=5)
    except Unavailable:
        return False
    return True


@pytest.mark.parametrize("name", ["postgres", "valkey"])
async def test_work_goes_on_by_itself_when_a_store_comes_back(stores: Stores, name: str):
    async with at_work(stores) as (replica, running), node_of(running) as node:
        await node.register()
        await stores.stop(name)
        await replica.waits_for(name.capitalize())
        if name == "postgres":
            assert (await replica.get("/v1/runs"))[0] == 503
            with pytest.raises(Unavailable):
                await node.heartbeat([], draining=False, timeout_s=20)
        await send(stores.settings)

        await (stores.start_postgres() if name == "postgres" else stores.start_valkey())

        await replica.ready()
        await arrived(replica, 1)
        await node.register()
        await _offered(node)


async def _offered(node: ControlLink) -> None:
    """Wait for an offer: the scheduler places again, and the other replicas' channel works."""
    async with asyncio.timeout(30):
        while True:
            try:
                async for _ in node.pull():
                    return
            except BpaError:
                await node.register()


async def test_a_wrong_clock_is_said_and_no_work_is_taken_until_it_is_right(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
):
    right = time.time
    off_s = 0.0
    monkeypatch.setattr(time, "time", lambda: right() + off_s)
    async with at_work(stores) as (replica, running):
        clocks = Clocks(3.0, right, boottime_s)
        link = ControlLink(
            address=running.grpc, node=NODE, log=structlog.get_logger(), clocks=clocks
        )
        async with link as node:
            await node.register()
            off_s = 60.0
            (reason,) = await replica.waits_for("our clock is 60 s ahead of Postgres's")
            assert "control.clock_skew_max_s" in reason
            assert (await replica.get("/v1/runs"))[0] == 200
            await send(stores.settings)
            with pytest.raises(AssertionError):
                await eventually(lambda: replica.here.plane.settlement.holding, within_s=3)
            assert (await replica.get("/v1/runs"))[1]["runs"] == []
            await node.heartbeat([], draining=False, timeout_s=5)
            assert node.clock_trouble() is None, "a clock that is wrong tells no time"
            off_s = 0.0
            await replica.ready()
            await arrived(replica, 1)


async def test_a_postgres_that_crashes_under_its_sessions_costs_a_moment(stores: Stores):
    async with at_work(stores) as (replica, _):
        assert stores.end_sessions()
        await send(stores.settings)
        await arrived(replica, 1)
        await replica.ready()


async def test_a_service_bus_that_lost_everything_is_read_again(stores: Stores):
    async with at_work(stores) as (replica, running), node_of(running) as node:
        await node.register()
        await send(stores.settings)
        await arrived(replica, 1)
        await stores.stop("bus")
        await stores.start_bus()
        await send(stores.settings)
        await arrived(replica, 2)
        await eventually(lambda: running.plane.settlement.holding == 1, within_s=20)


async def test_a_database_of_another_namespace_is_refused_with_the_way_out(stores: Stores):
    await stores.start_postgres()
    async with replica_of(stores.settings) as replica:
        await replica.here.started()
    bus = replace(stores.settings.service_bus, namespace="Contoso-Weu")
    with pytest.raises(BaseExceptionGroup) as caught:
        async with replica_of(replace(stores.settings, service_bus=bus)) as replica:
            await replica.here.started()
    error = _first_known(caught.value)
    assert isinstance(error, StartupError)
    assert "'sbemulatorns'" in str(error)
    assert "service_bus.namespace" in str(error)
