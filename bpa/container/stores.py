"""What a control replica stands on: who it is, its clock, its telemetry, its stores."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from typing import NewType

from dishka import Provider, Scope, provide
from redis.asyncio import Redis

from bpa.clocks import Clocks, boottime_s
from bpa.config import Settings
from bpa.connectors.service_bus import namespace_of
from bpa.control.database import Database
from bpa.postgres import Notifications, Pipeline, Pool, pool_of
from bpa.telemetry.metrics import Metrics
from bpa.telemetry.senders import replica_of
from bpa.valkey import valkey_of

ReplicaId = NewType("ReplicaId", str)
Namespace = NewType("Namespace", str)


class StoresProvider(Provider):
    """What the rest of a control replica is built on; all of it opens without its servers."""

    scope = Scope.APP

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        super().__init__()
        self._settings = settings
        self._metrics = metrics

    @provide
    def settings(self) -> Settings:
        """Return the validated settings."""
        return self._settings

    @provide
    def replica_id(self) -> ReplicaId:
        """Return who we are among the control replicas."""
        return ReplicaId(replica_of(self._settings))

    @provide
    def metrics(self) -> Metrics:
        """Return the process's metrics."""
        return self._metrics

    @provide
    def clocks(self) -> Clocks:
        """Return our clock beside those of others."""
        return Clocks(self._settings.control.clock_skew_max_s, time.time, boottime_s)

    @provide
    def namespace(self) -> Namespace:
        """Return the name that run ids are made of."""
        bus = self._settings.service_bus
        return Namespace((bus.namespace or namespace_of(bus.connection_string)).lower())

    @provide
    async def pool(self, replica_id: ReplicaId) -> AsyncIterator[Pool]:
        """Open the pool, whether Postgres is there yet or not."""
        dsn, size = self._settings.postgres.dsn, self._settings.postgres.pool_size
        pool = pool_of(dsn, min_size=min(2, size), max_size=size, application_name=replica_id)
        await pool.open(wait=False)
        yield pool
        await pool.close()

    @provide
    async def writes(self, pool: Pool) -> AsyncIterator[Pipeline]:
        """Open what shares commits; what was submitted is written at the end."""
        writes = Pipeline(pool)
        yield writes
        await writes.aclose()

    @provide
    def notifications(self, replica_id: ReplicaId) -> Notifications:
        """Return the connection that hears of other replicas."""
        return Notifications(
            self._settings.postgres.dsn,
            application_name=f"{replica_id}-listen",
            rng=random.Random(),  # noqa: S311 - jitter
        )

    @provide
    async def database(
        self, replica_id: ReplicaId, namespace: Namespace, pool: Pool, clocks: Clocks
    ) -> AsyncIterator[Database]:
        """Return what prepares the database and looks at it."""
        database = Database(self._settings.postgres.dsn, replica_id, namespace, pool, clocks)
        yield database
        await database.aclose()

    @provide
    async def valkey(self, replica_id: ReplicaId) -> AsyncIterator[Redis]:
        """Open the client of Redis."""
        client = valkey_of(self._settings.redis.url, client_name=replica_id)
        yield client
        await client.aclose()
