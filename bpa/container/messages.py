"""What a control replica does with the queues: messages taken, settled, buried, replayed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

from dishka import Provider, Scope, provide

from bpa.clocks import Clocks
from bpa.config import Settings
from bpa.connectors import Source
from bpa.connectors.service_bus import (
    Administration,
    BacklogReader,
    DeadLetterLocks,
    DeadLetterReader,
    ServiceBusPublisher,
    ServiceBusSource,
    is_emulator,
)
from bpa.container.stores import Namespace, ReplicaId
from bpa.control.burials import Burials
from bpa.control.dead_letters import DeadLetters
from bpa.control.deployments import Deployments
from bpa.control.ingest import Feeder, Ingest
from bpa.control.intake import Intake, Origin
from bpa.control.measure import Measured
from bpa.control.queues import Queues
from bpa.control.replaying import Replaying
from bpa.control.replays import Replays
from bpa.control.rooms import Rooms
from bpa.control.runs import Runs
from bpa.control.settlement import Settlement
from bpa.control.sweep import Sweep
from bpa.postgres import Notifications, Pool
from bpa.scheduler.credit import Credit
from bpa.scheduler.loop import Scheduler
from bpa.telemetry.metrics import Metrics


class MessagesProvider(Provider):
    """Everything that speaks to the broker, each part with a client of its own."""

    scope = Scope.APP

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings

    @provide
    def intake(
        self,
        runs: Runs,
        replays: Replays,
        settlement: Settlement,
        scheduler: Scheduler,
    ) -> Intake:
        """Return what records messages."""
        return Intake(runs, replays, settlement, scheduler.arrived)

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
        measured: Measured,
    ) -> Ingest:
        """Return what takes messages from the queues."""
        connection_string = self._settings.service_bus.connection_string

        def source(queue: str) -> Source:
            return ServiceBusSource(connection_string, queue)

        def feeder(origin: Origin) -> Feeder:
            measured.fed(origin.feeding)
            return Feeder(origin, intake, rooms, credit, replica_id, clocks)

        environment = self._settings.environment
        return Ingest(environment, namespace, deployments, source, feeder, settlement.needs)

    @provide
    def settlement(
        self,
        runs: Runs,
        notifications: Notifications,
        replica_id: ReplicaId,
        metrics: Metrics,
        clocks: Clocks,
    ) -> Settlement:
        """Return what settles the messages that this replica received."""
        return Settlement(runs, notifications, replica_id, metrics, clocks)

    @provide
    def burials(
        self,
        namespace: Namespace,
        deployments: Deployments,
        runs: Runs,
        pool: Pool,
    ) -> Burials:
        """Return what brings runs up to the dead-letter queues."""
        environment = self._settings.environment
        return Burials(environment, namespace, deployments, runs, pool)

    @provide
    def sweep(
        self,
        namespace: Namespace,
        deployments: Deployments,
        replays: Replays,
        burials: Burials,
        pool: Pool,
    ) -> Sweep:
        """Return what ends the runs of messages that the broker dead-lettered."""
        bus = self._settings.service_bus.connection_string
        return Sweep(
            self._settings.environment,
            namespace,
            deployments,
            replays,
            burials,
            pool,
            partial(DeadLetterReader, bus),
            self._settings.control.sweep_every_s,
        )

    @provide
    async def backlog_reader(self) -> AsyncIterator[BacklogReader]:
        """Open what tells how much waits in a queue; nothing is asked yet."""
        bus = self._settings.service_bus
        counting = bus.administration or bus.connection_string
        administration = None
        if bus.administration or not is_emulator(counting):  # whose administration has its own port
            administration = Administration(counting, bus.administration_ca)
        reader = BacklogReader(bus.connection_string, administration)
        yield reader
        await reader.aclose()

    @provide
    def queues(self, pool: Pool, reader: BacklogReader, metrics: Metrics) -> Queues:
        """Return what knows how much waits in each queue."""
        every_s = self._settings.control.measure_queues_every_s
        return Queues(self._settings.environment, pool, reader, metrics, every_s)

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
    def replaying(
        self,
        dead_letters: DeadLetters,
        replays: Replays,
        burials: Burials,
        runs: Runs,
        metrics: Metrics,
    ) -> Replaying:
        """Return what replays dead letters."""
        bus = self._settings.service_bus.connection_string
        return Replaying(
            dead_letters,
            replays,
            burials,
            runs,
            partial(DeadLetterLocks, bus),
            partial(ServiceBusPublisher, bus),
            metrics,
        )
