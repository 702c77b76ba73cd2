"""What a control replica is made of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from dishka import Provider, Scope, make_async_container, provide
from grpclib.health.service import Health
from redis.asyncio import Redis

from bpa.clocks import Clocks
from bpa.config import Settings, secrets_of
from bpa.container.messages import MessagesProvider
from bpa.container.stores import ReplicaId, StoresProvider
from bpa.control.agents import Agents
from bpa.control.breakers import Breakers
from bpa.control.census import Census
from bpa.control.changes import Changes
from bpa.control.costs import Costs
from bpa.control.database import Database
from bpa.control.dead_letters import DeadLetters
from bpa.control.deployments import Deployments
from bpa.control.disclosure import Disclosure, Show
from bpa.control.drains import Drains
from bpa.control.grpc import LinkServer, NodeLink
from bpa.control.history import History
from bpa.control.http import Services, create_app
from bpa.control.ingest import Ingest
from bpa.control.leases import Leases
from bpa.control.looking import Looking
from bpa.control.measure import Measured
from bpa.control.nodes import Nodes
from bpa.control.offers import Offers
from bpa.control.operating import Operating
from bpa.control.operations import Operations
from bpa.control.queues import Queues
from bpa.control.readiness import Dependency, Readiness
from bpa.control.reaper import Reaper
from bpa.control.replaying import Replaying
from bpa.control.replays import Replays
from bpa.control.revisions import Revisions
from bpa.control.rooms import Rooms
from bpa.control.runs import Ended, Runs
from bpa.control.searches import Searches
from bpa.control.settlement import Settlement
from bpa.control.simulations import Simulations
from bpa.control.sweep import Sweep
from bpa.control.traces import Traces
from bpa.control.trends import Trends
from bpa.domain.runs import RunId
from bpa.postgres import Notifications, Pipeline, Pool
from bpa.scheduler.commit import Committer
from bpa.scheduler.credit import Credit
from bpa.scheduler.holds import Hold, Holds
from bpa.scheduler.loop import Scheduler
from bpa.scheduler.snapshot import SnapshotReader
from bpa.telemetry.metrics import Metrics
from bpa.telemetry.otlp import resource_of, span_exporter
from bpa.telemetry.redaction import redactor
from bpa.ui.app import pages
from bpa.ui.views.run_facts import Outside
from bpa.valkey import ping
from bpa.web_server import listen, serve_http


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """The parts of a control replica that a role starts and stops."""

    settings: Settings
    agents: Agents
    census: Census
    changes: Changes
    deployments: Deployments
    ingest: Ingest
    leases: Leases
    link: NodeLink
    measured: Measured
    metrics: Metrics
    nodes: Nodes
    notifications: Notifications
    offers: Offers
    operating: Operating
    queues: Queues
    readiness: Readiness
    reaper: Reaper
    runs: Runs
    scheduler: Scheduler
    settlement: Settlement
    sweep: Sweep
    traces: Traces
    api: Services

    def connect(self) -> None:
        """Have each end of a run heard by those it concerns."""
        for source in (self.runs, self.leases):
            source.on_ended(self._freed)
            source.on_ended(self.settlement.ended)
            source.on_ended(self.measured.ended)

    def services(self) -> list[Coroutine[Any, Any, None]]:
        """Return the background services, intake and readiness aside, each to be run as a task."""
        exports = [self.traces.run()] if self.settings.telemetry.otlp_endpoint else []
        return [
            *exports,
            self.census.run(),
            self.changes.run(),
            self.notifications.run(),
            self.settlement.run(),
            self.offers.listen(self.notifications),
            self.operating.run(),
            self.queues.run(),
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
            self.offers.closing()
            server.close()
            await server.wait_closed()

    def serve_http(self) -> AbstractAsyncContextManager[str]:
        """Serve REST and the pages; yield their base URL."""
        control = self.settings.control
        telemetry = self.settings.telemetry
        outside = Outside(telemetry.trace_url, telemetry.logs_url)
        ui = pages(self.api, self.settings.environment, outside)
        app = ui.sharing(create_app(self.api, ui.handlers, ui.exception_handlers))
        return serve_http(app, control.host, control.http_port, "control.http_port")

    def look(self) -> None:
        """Show whether the replica is ready."""
        self.metrics.ready.labels("control").set(self.readiness.state.is_ready)

    def _freed(self, ended: Ended) -> None:
        row = ended.row
        if row["node_id"] is None:
            self.scheduler.wake()
        else:
            self.scheduler.freed([Hold(RunId(row["run_id"]), row["node_id"], row["dep_id"])])


class ControlProvider(Provider):
    """Runs, leases, the scheduler, and what speaks of them to nodes and operators."""

    scope = Scope.APP

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings

    agents = provide(Agents)
    breakers = provide(Breakers)
    costs = provide(Costs)
    deployments = provide(Deployments)
    drains = provide(Drains)
    history = provide(History)
    operations = provide(Operations)
    replays = provide(Replays)
    revisions = provide(Revisions)
    trends = provide(Trends)

    @provide
    def changes(self, pool: Pool) -> Changes:
        """Return what tells pages of changes."""
        return Changes(pool, silent_after_s=2 * self._settings.control.heartbeat_every_s)

    @provide
    def looking(self, pool: Pool) -> Looking:
        """Return the contents of runs, as far as they are shown."""
        contents = self._settings.contents
        masked = frozenset(name.strip().lower() for name in contents.masked.split(","))
        redact = redactor(secrets_of(self._settings))
        return Looking(pool, Disclosure(Show(contents.show), masked, redact))

    @provide
    def searches(self, pool: Pool) -> Searches:
        """Return the search among all runs."""
        return Searches(pool)

    @provide
    def operating(
        self, pool: Pool, runs: Runs, replaying: Replaying, scheduler: Scheduler
    ) -> Operating:
        """Return what works operations off."""
        return Operating(pool, runs, replaying, scheduler.wake)

    @provide
    def nodes(self, pool: Pool) -> Nodes:
        """Return what nodes there are."""
        return Nodes(pool, self._settings.control.heartbeat_every_s)

    @provide
    async def runs(
        self, pool: Pool, writes: Pipeline, breakers: Breakers, replica_id: ReplicaId
    ) -> AsyncIterator[Runs]:
        """Open the life of runs; what was submitted is written at the end."""
        exports = bool(self._settings.telemetry.otlp_endpoint)
        runs = Runs(pool, writes, breakers, replica_id, exports_traces=exports)
        yield runs
        await runs.aclose()

    @provide
    def offers(self, pool: Pool, writes: Pipeline, metrics: Metrics) -> Offers:
        """Return the streams of the nodes at this replica."""
        return Offers(pool, writes, self._settings.control.lease_ttl_s, metrics)

    @provide
    async def leases(self, pool: Pool, writes: Pipeline, offers: Offers) -> AsyncIterator[Leases]:
        """Open leases; what was submitted is written at the end."""
        control = self._settings.control
        leases = Leases(
            pool, writes, control.lease_ttl_s, offers, heartbeat_every_s=control.heartbeat_every_s
        )
        yield leases
        await leases.aclose()

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
    def census(self, pool: Pool, metrics: Metrics) -> Census:
        """Return what counts the fleet."""
        return Census(pool, metrics, silent_after_s=2 * self._settings.control.heartbeat_every_s)

    @provide
    def measured(self, metrics: Metrics) -> Measured:
        """Return what turns events into metrics."""
        return Measured(metrics)

    @provide
    def snapshots(self, pool: Pool) -> SnapshotReader:
        """Return what sees the fleet and its work."""
        return SnapshotReader(
            pool,
            self._settings.environment,
            silent_after_s=2 * self._settings.control.heartbeat_every_s,
        )

    @provide
    def scheduler(
        self,
        pool: Pool,
        reader: SnapshotReader,
        holds: Holds,
        offers: Offers,
        rooms: Rooms,
        measured: Measured,
        clocks: Clocks,
    ) -> Scheduler:
        """Return the scheduler of this replica."""
        control = self._settings.control
        committer = Committer(pool, holds, offer_ttl_s=control.lease_ttl_s)
        return Scheduler(reader, committer, holds, offers, rooms, measured, unfit=clocks.trouble)

    @provide
    def reaper(self, leases: Leases, offers: Offers, runs: Runs, metrics: Metrics) -> Reaper:
        """Return what ends lapsed leases and cancelled runs."""
        control = self._settings.control
        return Reaper(
            leases,
            offers,
            runs,
            metrics,
            every_s=control.reap_every_s,
            cancel_grace_s=control.cancel_grace_s,
        )

    @provide
    async def traces(
        self, pool: Pool, history: History, replica_id: ReplicaId
    ) -> AsyncIterator[Traces]:
        """Return what exports the spans of runs."""
        exporter = partial(span_exporter, self._settings.telemetry)
        traces = Traces(pool, history, exporter, replica_id, partial(resource_of, self._settings))
        yield traces
        await traces.close()

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
    def link(
        self,
        nodes: Nodes,
        leases: Leases,
        offers: Offers,
        runs: Runs,
        metrics: Metrics,
        scheduler: Scheduler,
        clocks: Clocks,
    ) -> NodeLink:
        """Return the service that nodes speak to."""
        every_s = self._settings.control.heartbeat_every_s

        def told() -> float:
            return 0.0 if clocks.trouble() else clocks.now_s()

        return NodeLink(nodes, leases, offers, runs, metrics, every_s, scheduler.wake, told)

    @provide
    def api(
        self,
        agents: Agents,
        breakers: Breakers,
        changes: Changes,
        deployments: Deployments,
        revisions: Revisions,
        reader: SnapshotReader,
        nodes: Nodes,
        drains: Drains,
        leases: Leases,
        offers: Offers,
        operating: Operating,
        operations: Operations,
        runs: Runs,
        history: History,
        looking: Looking,
        searches: Searches,
        costs: Costs,
        dead_letters: DeadLetters,
        replaying: Replaying,
        queues: Queues,
        trends: Trends,
        metrics: Metrics,
        readiness: Readiness,
        ingest: Ingest,
        scheduler: Scheduler,
    ) -> Services:
        """Return what REST serves."""
        return Services(
            agents=agents,
            breakers=breakers,
            changes=changes,
            deployments=deployments,
            revisions=revisions,
            simulations=Simulations(deployments, revisions, agents, reader),
            nodes=nodes,
            drains=drains,
            leases=leases,
            offers=offers,
            operations=operations,
            runs=runs,
            history=history,
            looking=looking,
            searches=searches,
            costs=costs,
            dead_letters=dead_letters,
            replaying=replaying,
            queues=queues,
            trends=trends,
            metrics=metrics,
            state=lambda: readiness.state,
            deployments_changed=ingest.deployments_changed,
            woken=scheduler.wake,
            operation_started=operating.wake,
            heartbeat_every_s=self._settings.control.heartbeat_every_s,
        )

    plane = provide(ControlPlane)


@asynccontextmanager
async def open_control_plane(settings: Settings, metrics: Metrics) -> AsyncIterator[ControlPlane]:
    """Build a control replica; no store has to be there yet.

    Args:
        settings: What it is to be.
        metrics: The process's.

    Raises:
        StartupError: A connection string makes no sense.
    """
    container = make_async_container(
        StoresProvider(settings, metrics), MessagesProvider(settings), ControlProvider(settings)
    )
    try:
        yield await container.get(ControlPlane)
    finally:
        await container.close()
