"""Control and nodes as processes of their own, with the stores they need."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
from psycopg import sql

from bpa.config import Embedded, ServiceBus, Settings
from bpa.embedded.processes import spawn_service
from bpa.embedded.stack import LocalStack, local_stack
from tests.e2e.server import Bpa, serving
from tests.eventually import eventually

ROOT = Path(__file__).parents[2]
QUEUES = (
    "here",
    "there",
    "elsewhere",
    "node-lost",
    "control-killed",
    "control-stopped",
    "drained",
    "replay-killed",
    "operation-killed",
)
LOCKS = {"control-killed": "PT5S", "replay-killed": "PT5S", "operation-killed": "PT5S"}
"""How long a message stays locked whose receiver is gone; a minute where nothing is said."""
STORES = ("postgres.", "redis.", "service_bus.")
"""What a node is not told: it meets control over gRPC only."""
QUICK = {"control.lease_ttl_s": "3", "control.heartbeat_every_s": "0.5"}


class Backing:
    """Postgres, Valkey, a Service Bus with several queues, a model stub and a target."""

    def __init__(self, local: LocalStack) -> None:
        self.local = local
        self._databases = 0

    async def settings(self) -> dict[str, str]:
        """Return what a control plane and its nodes need, with stores of their own."""
        self._databases += 1
        name = f"control_{self._databases}"
        dsn = self.local.postgres_dsn
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return {
            "postgres.dsn": dsn.replace("/bpa?", f"/{name}?"),
            "redis.url": f"{self.local.redis_url}?db={self._databases}",
            "service_bus.connection_string": self.local.service_bus,
            "anthropic.base_url": self.local.anthropic_url,
            "anthropic.api_key": self.local.anthropic_api_key,
            "http_out.base_url": f"{self.local.target_url}/invoices",
        }


@contextlib.asynccontextmanager
async def backing(
    directory: Path, cluster: Path, names: Sequence[str] = QUEUES
) -> AsyncIterator[Backing]:
    """Run the servers that a control plane and its nodes lean on, Postgres on a copy."""
    shutil.copytree(cluster, directory / "data")
    config = directory / "Config.json"
    queues = [
        {
            "Name": name,
            "Properties": {"LockDuration": LOCKS.get(name, "PT1M"), "MaxDeliveryCount": 10},
        }
        for name in names
    ]
    namespace = {"Name": "sbemulatorns", "Queues": queues, "Topics": []}
    user = {"Namespaces": [namespace], "Logging": {"Type": "Console"}}
    config.write_text(json.dumps({"UserConfig": user}), "utf-8")
    words = ["--json", "--config", str(config), "--port", "0", "--admin-port", "0"]
    emulator, ready = await spawn_service(
        [Path(sys.executable).with_name("bpa"), "emulate", "service-bus", *words],
        name="service-bus",
        log_path=directory / "service_bus.log",
    )
    ports = Embedded(service_bus_port=0, service_bus_admin_port=0, anthropic_port=0, target_port=0)
    bus = ready["connection_string"]
    settings = Settings(
        data_dir=str(directory / "data"),
        embedded=ports,
        service_bus=ServiceBus(connection_string=bus),
    )
    try:
        async with local_stack(settings) as local:
            local.service_bus = bus
            yield Backing(local)
    finally:
        await emulator.stop()


class Fleet:
    """One control process and what it governs."""

    def __init__(self, directory: Path, settings: dict[str, str], local: LocalStack) -> None:
        self.directory = directory
        self.settings = settings
        self.local = local
        self.control: Bpa

    @contextlib.asynccontextmanager
    async def governed(self, **more: str) -> AsyncIterator[Bpa]:
        """Run control."""
        words = {**self.settings, **QUICK, **more}
        async with serving(self.directory / "control", "control", **words) as control:
            control.addresses |= {
                "anthropic": self.local.anthropic_url,
                "target": self.local.target_url,
                "service_bus": self.local.service_bus,
            }
            self.control = control
            yield control

    @contextlib.asynccontextmanager
    async def node(self, name: str, region: str, **more: str) -> AsyncIterator[Bpa]:
        """Run a node and wait until control knows it."""
        words = {
            **self.settings,
            "node.id": name,
            "node.labels.region": region,
            "node.control": self.control.addresses["grpc"],
            **more,
        }
        words = {key: value for key, value in words.items() if not key.startswith(STORES)}
        directory = self.directory / name
        async with serving(directory, "node", **words) as node:
            await eventually(lambda: self._knows(name), within_s=15, every_s=0.1)
            yield node

    async def deploy(
        self, queue: str, regions: Sequence[str], *, model: str = "", **spec: Any
    ) -> None:
        """Create an agent and a deployment of the queue, for nodes of these regions."""
        agent = json.loads((ROOT / "config/agents/invoice-classifier.json").read_text("utf-8"))
        agent |= {"agentId": f"classifier-{queue}"}
        if model:
            agent["modelProfile"] |= {"model": model}
        (path,) = (ROOT / "config/deployments").glob("*.json")
        deployment = json.loads(path.read_text("utf-8"))
        del deployment["inputSchema"]
        deployment |= {
            "agentId": agent["agentId"],
            "queue": queue,
            "placement": {"affinity": {"region": list(regions)}},
            "target": {"slotBudget": 4},
            **spec,
        }
        async with aiohttp.ClientSession(self.control.addresses["http"]) as session:
            for what, body in (("agents", agent), ("deployments", deployment)):
                async with session.post(f"/v1/{what}", json=body) as response:
                    assert response.status in (200, 201), await response.text()

    async def _knows(self, name: str) -> bool:
        nodes = await self.control.get("/v1/nodes")
        return name in [n["nodeId"] for n in nodes if n["heartbeatAgeS"] < 2]
