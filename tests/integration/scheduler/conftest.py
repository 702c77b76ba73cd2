"""A small fleet in a real Postgres, with slot holds in a real Valkey."""

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import msgspec
import pytest
from redis.asyncio import Redis

from bpa.domain.specs import AgentSpec, DeploymentSpec, Placement, Resources, Target
from bpa.postgres import Pool, open_pool
from bpa.scheduler.commit import Committer
from bpa.scheduler.holds import Holds
from bpa.scheduler.snapshot import SnapshotReader
from bpa.valkey import open_valkey

SILENT_AFTER_S = 10.0


@dataclass(slots=True)
class Fleet:
    """Rows to schedule, and questions about what became of them."""

    pool: Pool
    number: int = 0

    async def rows(self, sql, **parameters):
        async with self.pool.connection() as connection:
            cursor = await connection.execute(sql, parameters)
            return await cursor.fetchall() if cursor.description else []

    async def value(self, sql, **parameters):
        [row] = await self.rows(sql, **parameters)
        [value] = row.values()
        return value

    async def agent(self):
        spec = AgentSpec(agent_id="a", version="1.0.0", name="A", instructions="Do.")
        await self.rows("insert into agents values ('a', 'A', 'Do.', '{}') on conflict do nothing")
        await self.rows(
            "insert into agent_versions values ('a', '1.0.0', %(spec)s::jsonb)"
            " on conflict do nothing",
            spec=msgspec.json.encode(spec).decode(),
        )

    async def deployment(
        self, name="dep-1", *, budget=4, replicas=1, affinity=None, cpu="0", memory="0", env="dev"
    ):
        await self.agent()
        spec = DeploymentSpec(
            agent_id="a",
            version="1.0.0",
            environment=env,
            queue=name,
            target=Target(budget, replicas, Resources(cpu, memory)),
            placement=Placement(affinity or {}),
        )
        await self.rows(
            "insert into deployments (dep_id, agent_id, version, env, queue, target)"
            " values (%(name)s, 'a', '1.0.0', %(env)s, %(name)s, %(spec)s::jsonb)"
            " on conflict (dep_id) do update set target = excluded.target,"
            " revision = deployments.revision + 1",
            name=name,
            env=env,
            spec=msgspec.json.encode(spec).decode(),
        )

    async def node(self, name="node-1", slots=8, *, labels=None, boot="boot-1", **capacity):
        await self.rows(
            "insert into nodes (node_id, boot_id, metadata, capacity)"
            " values (%(name)s, %(boot)s, %(metadata)s::jsonb, %(capacity)s::jsonb)"
            " on conflict (node_id) do update set boot_id = excluded.boot_id",
            name=name,
            boot=boot,
            metadata=msgspec.json.encode({"labels": labels or {}}).decode(),
            capacity=msgspec.json.encode({"slots": slots, **capacity}).decode(),
        )

    async def runs(self, count, dep="dep-1"):
        ids = []
        for _ in range(count):
            self.number += 1
            ids.append(str(uuid.UUID(int=self.number)))
        await self.rows(
            "insert into runs (run_id, agent_id, version, dep_id, input_ref, status, trace_id,"
            " effect_key, traceparent, enqueued_at, created_at)"
            " select id, 'a', '1.0.0', %(dep)s, '{}', 'queued', 't', id::text, 'tp', now(),"
            " now() - interval '1 minute' + make_interval(secs => nth * 0.001)"
            " from unnest(%(ids)s::uuid[]) with ordinality as t (id, nth)",
            ids=ids,
            dep=dep,
        )
        return ids

    async def finish(self, run_ids):
        """End runs as control does: the status moves, the lease goes."""
        await self.rows(
            "with done as ("
            " update runs set status = 'completed' where run_id = any(%(ids)s::uuid[]))"
            " delete from leases where run_id = any(%(ids)s::uuid[])",
            ids=list(run_ids),
        )

    async def statuses(self):
        rows = await self.rows("select status, count(*) as n from runs group by status")
        return {row["status"]: row["n"] for row in rows}

    async def leases_by(self, column):
        rows = await self.rows(f"select {column} as k, count(*) as n from leases group by {column}")
        return {row["k"]: row["n"] for row in rows}


@dataclass(slots=True)
class Replica:
    """What one control replica schedules with, on connections of its own."""

    pool: Pool
    valkey: Redis
    reader: SnapshotReader
    holds: Holds
    committer: Committer


@asynccontextmanager
async def replica_of(database: str, valkey_url: str, env="dev", **holds) -> AsyncIterator[Replica]:
    async with AsyncExitStack() as stack:
        pool = await open_pool(database, min_size=1, max_size=3, application_name="replica")
        stack.push_async_callback(pool.close)
        valkey = await open_valkey(valkey_url, client_name="replica")
        stack.push_async_callback(valkey.aclose)
        slot_holds = Holds(valkey, **holds)
        yield Replica(
            pool,
            valkey,
            SnapshotReader(pool, env, silent_after_s=SILENT_AFTER_S),
            slot_holds,
            Committer(pool, slot_holds, offer_ttl_s=15.0),
        )


@pytest.fixture
async def fleet(database: str) -> AsyncIterator[Fleet]:
    pool = await open_pool(database, min_size=1, max_size=2, application_name="fleet")
    try:
        yield Fleet(pool)
    finally:
        await pool.close()


@pytest.fixture
async def replica(database: str, valkey_url: str) -> AsyncIterator[Replica]:
    async with replica_of(database, valkey_url) as one:
        await one.committer.refresh()  # a fresh Valkey has no holds: build them once
        yield one
