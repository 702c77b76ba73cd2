"""What the tests of control work with."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from bpa.control.agents import Agents
from bpa.control.arrivals import Arrival
from bpa.control.breakers import Breakers
from bpa.control.burials import Burials
from bpa.control.costs import Costs
from bpa.control.deployments import Deployments
from bpa.control.drains import Drains
from bpa.control.history import History
from bpa.control.leases import Leases
from bpa.control.nodes import Nodes
from bpa.control.offers import Offers
from bpa.control.revisions import Revisions
from bpa.control.runs import Runs
from bpa.control.searches import Searches
from bpa.control.simulations import Simulations
from bpa.domain.journal import UnitPrice
from bpa.domain.runs import NodeId, RunId, effect_key_of, run_id_of
from bpa.domain.specs import AgentSpec, DeploymentSpec, NodeSpec
from bpa.postgres import Notifications, Pipeline, Pool
from bpa.scheduler.snapshot import SnapshotReader
from bpa.telemetry.metrics import Metrics

AGENT = AgentSpec(
    agent_id="invoice-classifier", version="1.0.0", name="Invoice Classifier", instructions="Do."
)
DEPLOYMENT = DeploymentSpec(
    agent_id="invoice-classifier", version="1.0.0", environment="dev", routes=["it", "general"]
)
DEP_ID = "invoice-classifier-dev"
PRICE = UnitPrice(
    input="3", output="15", cache_read="0.3", cache_write="3.75", source="a list", version="1"
)

GRANT = """
with run as (
    update runs set status = 'offered', lease_epoch = lease_epoch + 1, node_id = %(node_id)s,
        started_at = coalesce(started_at, now())
    where run_id = %(run_id)s::uuid and status = 'queued'
    returning run_id, lease_epoch
)
insert into leases (run_id, node_id, boot_id, dep_id, epoch, cpu_millis, memory_bytes, expires_at)
select run_id, %(node_id)s, %(boot_id)s, %(dep_id)s, lease_epoch, 0, 0,
    now() + make_interval(secs => %(ttl_s)s)
from run returning epoch
"""


@dataclass(frozen=True, slots=True)
class Fleet:
    pool: Pool
    runs: Runs
    leases: Leases
    offers: Offers
    nodes: Nodes
    agents: Agents
    deployments: Deployments
    breakers: Breakers

    @property
    def history(self) -> History:
        return History(self.pool)

    @property
    def searches(self) -> Searches:
        return Searches(self.pool)

    @property
    def costs(self) -> Costs:
        return Costs(self.pool)

    @property
    def revisions(self) -> Revisions:
        return Revisions(self.pool)

    @property
    def simulations(self) -> Simulations:
        reader = SnapshotReader(self.pool, "dev", silent_after_s=10)
        return Simulations(self.deployments, self.revisions, self.agents, reader)

    @property
    def drains(self) -> Drains:
        return Drains(self.pool, self.leases)

    @property
    def burials(self) -> Burials:
        return Burials("dev", "ns", self.deployments, self.runs, self.pool)

    async def register(self, node_id: str = "node-1", boot_id: str = "boot-1") -> None:
        """Register a node in the place of whatever process was it before."""
        await self.nodes.gone(node_id)
        await self.nodes.register(NodeSpec(node_id=node_id, boot_id=boot_id, slots=8))

    async def queued(self, number: int = 1) -> RunId:
        return (await self.runs.receive(arrival(number))).run_id

    async def granted(
        self,
        run_id: RunId,
        node_id: str = "node-1",
        boot_id: str = "boot-1",
        *,
        ttl_s: float = 15.0,
    ) -> int:
        """Grant as the scheduler's commit does, without its checks; return the epoch."""
        values = {
            "run_id": run_id,
            "node_id": node_id,
            "boot_id": boot_id,
            "dep_id": DEP_ID,
            "ttl_s": ttl_s,
        }
        async with self.pool.connection() as connection:
            row = await (await connection.execute(GRANT, values)).fetchone()
        assert row is not None
        return int(row["epoch"])

    async def running(self, number: int = 1, node_id: str = "node-1") -> tuple[RunId, int]:
        run_id = await self.queued(number)
        epoch = await self.granted(run_id, node_id)
        await self.leases.acknowledge(run_id, epoch)
        return run_id, epoch

    async def expire(self, run_id: RunId) -> None:
        """Let a lease's time be over by Postgres's clock."""
        async with self.pool.connection() as connection:
            await connection.execute(
                "update leases set expires_at = now() - interval '1 ms' where run_id = %s",
                (run_id,),
            )

    async def status(self, run_id: RunId) -> str:
        return str((await self.history.get(run_id))["status"])


@asynccontextmanager
async def fleet_on(pool: Pool) -> AsyncIterator[Fleet]:
    """Build the services of one replica; what was submitted is written at the end."""
    writes, metrics = Pipeline(pool), Metrics()
    breakers = Breakers(pool, metrics)
    runs = Runs(pool, writes, breakers, "replica-1")
    offers = Offers(pool, writes, 15.0, metrics)
    leases = Leases(pool, writes, 15.0, offers)
    nodes, agents, deployments = Nodes(pool), Agents(pool), Deployments(pool)
    try:
        yield Fleet(pool, runs, leases, offers, nodes, agents, deployments, breakers)
    finally:
        for part in (runs, leases, writes):
            await part.aclose()


@asynccontextmanager
async def hearing(offers: Offers, database: str) -> AsyncIterator[None]:
    """Run what a replica does beside answering: it listens, and notes whose stream broke."""
    notifications = Notifications(database, application_name="test", rng=random.Random(1))
    tasks = [
        asyncio.ensure_future(notifications.run()),
        asyncio.ensure_future(offers.listen(notifications)),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results), results


def arrival(number: int = 1, **changes: object) -> Arrival:
    run_id = run_id_of("ns", "invoices", number, 1_763_800_000_000 + number)
    base = Arrival(
        run_id=run_id,
        agent_id="invoice-classifier",
        version="1.0.0",
        dep_id=DEP_ID,
        input_ref={"queue": "invoices", "sequence_number": number},
        document=b"{}",
        body_sha256=b"\0" * 32,
        trace_id="0af7651916cd43dd8448eb211c80319c",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        tracestate="",
        enqueued_at=datetime.fromtimestamp(1_763_800_000 + number, UTC),
        effect_key=effect_key_of(run_id, number),
        delivery_count=0,
    )
    return replace(base, **changes)


def node_id(name: str) -> NodeId:
    return NodeId(name)
