"""What a control replica is made of."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NewType

from dishka import Provider, Scope, make_async_container, provide
from grpclib.health.service import Health
from redis.asyncio import Redis

from bpa.clocks import Clocks, boottime_s
from bpa.config import Settings
from bpa.connectors import Source
from bpa.connectors.service_bus import (
    DeadLetterLocks,
    DeadLetterReader,
    ServiceBusPublisher,
    ServiceBusSource,
    namespace_of,
)
from bpa.control.agents import Agents
from bpa.control.breakers import Breakers
from bpa.control.database import Database
from bpa.control.dead_letters import DeadLetters
from bpa.control.deployments import Deployments
from bpa.control.drains import Drains
from bpa.control.grpc import LinkServer, NodeLink
from bpa.control.http import Services, create_app
from bpa.control.ingest import Feeder, Ingest
from bpa.control.intake import Intake, Origin
from bpa.control.leases import Leases
from bpa.control.measure import Measured
from bpa.control.nodes import Nodes
from bpa.control.readiness import Dependency, Readiness
from bpa.control.reaper import Reaper
from bpa.control.replaying import Replaying
from bpa.control.replays import Replays
from bpa.control.rooms import Rooms
from bpa.control.runs import Ended, Runs
from bpa.control.settlement import Settlement
from bpa.control.sweep import Sweep
from bpa.domain import RunId
from bpa.postgres import Notifications, Pipeline, Pool, pool_of
from bpa.scheduler.commit import Committer
from bpa.scheduler.credit import Credit
from bpa.scheduler.holds import Hold, Holds
from bpa.scheduler.loop import Scheduler
from bpa.scheduler.snapshot import SnapshotReader
from bpa.telemetry import Metrics, Tracing, open_tracing
from bpa.valkey import ping, valkey_of
from bpa.web_server import listen, serve_http

ReplicaId = NewType("ReplicaId", str)
Namespace = NewType("Namespace", str)


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """The parts of a control replica that a role starts and stops."""

    settings: Settings
    agents: Agents
    deployments: Deployments
    ingest: Ingest
    leases: Leases
    link: NodeLink
    measured: Measured
    nodes: Nodes
    notifications: Notifications
    readiness: Readiness
    reaper: Reaper
    runs: Runs
    scheduler: Scheduler
    settlement: Settlement
    sweep: Sweep
    api: Services

    def connect(self) -> None:
        """Have each end of a run heard by those it concerns."""
        for source in (self.runs, self.leases):
            source.on_ended(self._freed)
            source.on_ended(self.settlement.ended)
            source.on_ended(self.measured.ended)

    def services(self) -> list[Coroutine[Any, Any, None]]:
        """Return the background services, intake and readiness aside, each to be run as a task."""
        return [
            self.notifications.run(),
            self.settlement.run(),
            self.leases.listen(self.notifications),
            self.reaper.run(),
            self.scheduler.run(),
            self.sweep.run(),
        ]

    @asynccontextmanager
    async def serve_grpc(self) -> AsyncIterator[str]:
        """Serve the node link; yield ``host:port``."""
        control = self.settings.control
        listener = listen(control.host, control.grpc_port, "control.grpc_port")
        server = LinkServer([self.link, Health()])
        await server.start(sock=listener)
        try:
            yield f"{control.host}:{listener.getsockname()[1]}"
        finally:
            self.leases.closing()
            server.close()
            await server.wait_closed()

    def serve_http(self) -> AbstractAsyncContextManager[str]:
        """Serve REST; yield its base URL."""
        control = self.settings.control
        return serve_http(
            create_app(self.api), control.host, control.http_port, "control.http_port"
        )

    def _freed(self, ended: Ended) -> None:
        row = ended.row
        if row["node_id"] is None:
            self.scheduler.wake()
        else:
            self.scheduler.freed([Hold(RunId(row["run_id"]), row["node_id"], row["dep_id"])])


class ControlProvider(Provider):
    """Everything that the control plane is made of."""

    scope = Scope.APP

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings

    @provide
    def settings(self) -> Settings:
        """Return the validated settings."""
        return self._settings

    @provide
    def replica_id(self) -> ReplicaId:
        """Return who we are among the control replicas."""
        given = self._settings.control.replica_id
        return ReplicaId(given or f"{socket.gethostname()}-{os.getpid()}")

    @provide
    async def tracing(self, replica_id: ReplicaId) -> AsyncIterator[Tracing]:
        """Open tracing; what waits is sent at the end."""
        tracing = open_tracing(self._settings, "bpa-control", replica_id)
        yield tracing
        await asyncio.to_thread(tracing.close)

    @provide
    def metrics(self) -> Metrics:
        """Return the process's metrics."""
        return Metrics()

    @provide
    async def pool(self, replica_id: ReplicaId) -> AsyncIterator[Pool]:
        """Open the pool, whether Postgres is there yet or not."""
        dsn, size = self._settings.postgres.dsn, self._settings.postgres.pool_size
        pool = pool_of(dsn, min_size=min(2, size), max_size=size, application_name=replica_id)
        await pool.open(wait=False)
        yield pool
        await pool.close()

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
    async def database(
        self, replica_id: ReplicaId, namespace: Namespace, pool: Pool, clocks: Clocks
    ) -> AsyncIterator[Database]:
        """Return what prepares the database and looks at it."""
        database = Database(self._settings.postgres.dsn, replica_id, namespace, pool, clocks)
        yield database
        await database.aclose()

    @provide
    def readiness(
        self, database: Database, valkey: Redis, clocks: Clocks, ingest: Ingest
    ) -> Readiness:
        """Return what watches the stores and the clock."""

        async def look_at_valkey() -> None:
            await ping(valkey)

        stores = [Dependency("Postgres", database.look), Dependency("Valkey", look_at_valkey)]
        return Readiness(stores, database.prepared, clocks, ingest.troubles)

    @provide
    def notifications(self, replica_id: ReplicaId) -> Notifications:
        """Return the connection that hears of other replicas."""
        return Notifications(
            self._settings.postgres.dsn,
            application_name=f"{replica_id}-listen",
            rng=random.Random(),  # noqa: S311 - jitter
        )

    @provide
    async def valkey(self, replica_id: ReplicaId) -> AsyncIterator[Redis]:
        """Open the client of Redis."""
        client = valkey_of(self._settings.redis.url, client_name=replica_id)
        yield client
        await client.aclose()

    @provide
    async def writes(self, pool: Pool) -> AsyncIterator[Pipeline]:
        """Open what shares commits; what was submitted is written at the end."""
        writes = Pipeline(pool)
        yield writes
        await writes.aclose()

    @provide
    async def runs(
        self, pool: Pool, writes: Pipeline, breakers: Breakers, replica_id: ReplicaId
    ) -> AsyncIterator[Runs]:
        """Open the life of runs; what was submitted is written at the end."""
        runs = Runs(pool, writes, breakers, replica_id)
        yield runs
        await runs.aclose()

    @provide
    async def leases(
        self, pool: Pool, writes: Pipeline, tracing: Tracing, metrics: Metrics
    ) -> AsyncIterator[Leases]:
        """Open leases; what was submitted is written at the end."""
        control = self._settings.control
        leases = Leases(
            pool,
            writes,
            control.lease_ttl_s,
            tracing,
            metrics,
            heartbeat_every_s=control.heartbeat_every_s,
        )
        yield leases
        await leases.aclose()

    agents = provide(Agents)
    breakers = provide(Breakers)
    deployments = provide(Deployments)
    nodes = provide(Nodes)
    drains = provide(Drains)
    replays = provide(Replays)

    @provide
    def holds(self, valkey: Redis) -> Holds:
        """Return the slot holds."""
        return Holds(valkey, ttl_s=self._settings.control.lease_ttl_s)

    @provide
    def credit(self, valkey: Redis) -> Credit:
        """Return the reservations of all replicas."""
        return Credit(valkey)

    rooms = provide(Rooms)

    @provide
    def measured(self, metrics: Metrics) -> Measured:
        """Return what turns events into metrics."""
        return Measured(metrics)

    @provide
    def scheduler(
        self,
        pool: Pool,
        holds: Holds,
        leases: Leases,
        rooms: Rooms,
        measured: Measured,
        clocks: Clocks,
    ) -> Scheduler:
        """Return the scheduler of this replica."""
        control = self._settings.control
        reader = SnapshotReader(
            pool, self._settings.environment, silent_after_s=2 * control.heartbeat_every_s
        )
        committer = Committer(pool, holds, offer_ttl_s=control.lease_ttl_s)
        return Scheduler(reader, committer, holds, leases, rooms, measured, unfit=clocks.trouble)

    @provide
    def settlement(
        self,
        runs: Runs,
        notifications: Notifications,
        replica_id: ReplicaId,
        tracing: Tracing,
        metrics: Metrics,
        clocks: Clocks,
    ) -> Settlement:
        """Return what settles the messages that this replica received."""
        return Settlement(runs, notifications, replica_id, tracing, metrics, clocks)

    @provide
    def reaper(self, leases: Leases, runs: Runs, metrics: Metrics) -> Reaper:
        """Return what ends lapsed leases and cancelled runs."""
        control = self._settings.control
        return Reaper(
            leases,
            runs,
            metrics,
            every_s=control.reap_every_s,
            cancel_grace_s=control.cancel_grace_s,
        )

    @provide
    def intake(
        self,
        runs: Runs,
        replays: Replays,
        settlement: Settlement,
        tracing: Tracing,
        scheduler: Scheduler,
    ) -> Intake:
        """Return what records messages."""
        return Intake(runs, replays, settlement, tracing, scheduler.arrived)

    @provide
    def dead_letters(
        self, namespace: Namespace, deployments: Deployments, replays: Replays
    ) -> DeadLetters:
        """Return what looks at dead letters."""
        bus, environment = self._settings.service_bus.connection_string, self._settings.environment
        return DeadLetters(
            environment, namespace, deployments, replays, partial(DeadLetterReader, bus)
        )

    @provide
    def sweep(
        self,
        namespace: Namespace,
        deployments: Deployments,
        replays: Replays,
        runs: Runs,
        pool: Pool,
        tracing: Tracing,
    ) -> Sweep:
        """Return what ends the runs of messages that the broker dead-lettered."""
        bus = self._settings.service_bus.connection_string
        return Sweep(
            self._settings.environment,
            namespace,
            deployments,
            replays,
            runs,
            pool,
            tracing,
            partial(DeadLetterReader, bus),
            self._settings.control.sweep_every_s,
        )

    @provide
    def replaying(
        self, dead_letters: DeadLetters, replays: Replays, runs: Runs, metrics: Metrics
    ) -> Replaying:
        """Return what replays dead letters."""
        bus = self._settings.service_bus.connection_string
        return Replaying(
            dead_letters,
            replays,
            runs,
            partial(DeadLetterLocks, bus),
            partial(ServiceBusPublisher, bus),
            metrics,
        )

    @provide
    def ingest(
        self,
        deployments: Deployments,
        intake: Intake,
        rooms: Rooms,
        credit: Credit,
        replica_id: ReplicaId,
        namespace: Namespace,
        settlement: Settlement,
        clocks: Clocks,
    ) -> Ingest:
        """Return what takes messages from the queues."""
        connection_string = self._settings.service_bus.connection_string

        def source(queue: str) -> Source:
            return ServiceBusSource(connection_string, queue)

        def feeder(origin: Origin) -> Feeder:
            return Feeder(origin, intake, rooms, credit, replica_id, clocks)

        environment = self._settings.environment
        return Ingest(environment, namespace, deployments, source, feeder, settlement.needs)

    @provide
    def api(
        self,
        agents: Agents,
        breakers: Breakers,
        deployments: Deployments,
        nodes: Nodes,
        drains: Drains,
        leases: Leases,
        runs: Runs,
        dead_letters: DeadLetters,
        replaying: Replaying,
        metrics: Metrics,
        readiness: Readiness,
        ingest: Ingest,
        scheduler: Scheduler,
    ) -> Services:
        """Return what REST serves."""
        return Services(
            agents=agents,
            breakers=breakers,
            deployments=deployments,
            nodes=nodes,
            drains=drains,
            leases=leases,
            runs=runs,
            dead_letters=dead_letters,
            replaying=replaying,
            metrics=metrics,
            state=lambda: readiness.state,
            deployments_changed=ingest.deployments_changed,
            woken=scheduler.wake,
            heartbeat_every_s=self._settings.control.heartbeat_every_s,
        )

    plane = provide(ControlPlane)

    @provide
    def link(
        self,
        nodes: Nodes,
        leases: Leases,
        runs: Runs,
        metrics: Metrics,
        scheduler: Scheduler,
        clocks: Clocks,
    ) -> NodeLink:
        """Return the service that nodes speak to."""
        every_s = self._settings.control.heartbeat_every_s

        def told() -> float:
            return 0.0 if clocks.trouble() else clocks.now_s()

        return NodeLink(nodes, leases, runs, metrics, every_s, scheduler.wake, told)


@asynccontextmanager
async def open_control_plane(settings: Settings) -> AsyncIterator[ControlPlane]:
    """Build a control replica; no store has to be there yet.

    Raises:
        StartupError: A connection string makes no sense.
    """
    container = make_async_container(ControlProvider(settings))
    try:
        yield await container.get(ControlPlane)
    finally:
        await container.close()
