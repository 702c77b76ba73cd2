"""The emulator's metrics, as Prometheus reads them from ``/metrics``.

::

    service_bus_messages{queue,state}             active, locked, scheduled, deferred, dead_lettered
    service_bus_incoming_messages_total{queue}    accepted from senders
    service_bus_outgoing_messages_total{queue}    deliveries, repeated ones included
    service_bus_settled_messages_total{queue,outcome}
    service_bus_connections, service_bus_links    open now
    service_bus_journal_bytes                     size of the journal, 0 in memory
    service_bus_journal_sync_seconds              histogram of one sync of a group
    service_bus_loop_lag_seconds                  one round of the event loop, at the moment

A queue has labels of its own if it is among the first 200; the others share ``queue="(others)"``.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from .broker import Broker
from .counts import page

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_MOST_QUEUES = 200
_OTHERS = "(others)"
_STATES = ("active", "locked", "scheduled", "deferred", "dead_lettered")
_SYNC_BUCKETS_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0)


class OpenConnection(Protocol):
    """What is counted of a connection."""

    @property
    def links(self) -> int:
        """How many links are attached."""


class Metrics:
    """Reads the broker when asked.

    Args:
        broker: The queues and their journal.
        connections: Those that are open.
    """

    def __init__(self, broker: Broker, connections: Collection[OpenConnection]) -> None:
        self._broker = broker
        self._connections = connections
        self._lag_s = 0.0
        self._registry = CollectorRegistry()
        self._registry.register(self)
        sync = Histogram(
            "service_bus_journal_sync_seconds",
            "One sync of a group of records.",
            buckets=_SYNC_BUCKETS_S,
            registry=self._registry,
        )
        broker.journal.on_synced = sync.observe

    async def render(self) -> bytes:
        """Return the text of all metrics."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        await asyncio.sleep(0)
        self._lag_s = loop.time() - began_s
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """Yield everything but the histogram, as the registry asks."""
        yield from self._queues()
        links = sum(connection.links for connection in self._connections)
        for name, text, value in (
            ("connections", "Connections that are open.", len(self._connections)),
            ("links", "Links that are attached.", links),
            ("journal_bytes", "Size of the journal.", self._broker.journal.size_bytes),
            ("loop_lag_seconds", "One round of the event loop.", self._lag_s),
        ):
            yield GaugeMetricFamily(f"service_bus_{name}", text, value=value)

    def _queues(self) -> Iterable[Metric]:
        held: Counter[tuple[str, str]] = Counter()
        settled: Counter[tuple[str, str]] = Counter()
        incoming: Counter[str] = Counter()
        outgoing: Counter[str] = Counter()
        for number, counts in enumerate(page(self._broker).queues):
            queue = counts.name if number < _MOST_QUEUES else _OTHERS
            for state in _STATES:
                held[queue, state] += getattr(counts, state)
            for outcome, count in counts.settled.items():
                settled[queue, outcome] += count
            incoming[queue] += counts.incoming
            outgoing[queue] += counts.outgoing
        messages = GaugeMetricFamily(
            "service_bus_messages", "Messages held.", labels=("queue", "state")
        )
        for labels, count in held.items():
            messages.add_metric(labels, count)
        yield messages
        ended = CounterMetricFamily(
            "service_bus_settled_messages", "How they ended.", labels=("queue", "outcome")
        )
        for labels, count in settled.items():
            ended.add_metric(labels, count)
        yield ended
        for name, text, counter in (
            ("incoming", "Messages accepted.", incoming),
            ("outgoing", "Deliveries.", outgoing),
        ):
            family = CounterMetricFamily(f"service_bus_{name}_messages", text, labels=("queue",))
            for queue, count in counter.items():
                family.add_metric((queue,), count)
            yield family
