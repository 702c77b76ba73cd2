"""What a process counts and measures; the names are in the package's docstring.

A counter is exposed under the name it was given. The client library appends ``_total`` to all, the
architecture document to some: ``tokens_in`` stands as it is written there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import Metric

from bpa import __version__

CONTENT_TYPE = CONTENT_TYPE_LATEST.rpartition(";")[0]
"""Of `exposition`, without the charset, which the framework adds. OpenMetrics, which some scrapers
would rather have, allows no counter without ``_total``."""
OTHER = "other"
"""The label of whatever has no room among the values of a bounded one."""

_HOSTS_MAX = 50
_LATENCY_MS = (5, 10, 15, 20, 30, 50, 80, 120, 200, 350, 600, 1000, 2000, 5000, 15000, 60000)
_PLACEMENT_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 30, 120)
_QUEUED_S = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 1800)
_SANDBOX_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)
_REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_APPENDED = re.compile(rb"^(# (?:HELP|TYPE) \w+)_total(?= .*)", re.MULTILINE)


class NamedCounter(Counter):
    """A counter that is exposed under its own name, without a time of creation."""

    def __init__(
        self, name: str, documentation: str, labelnames: Iterable[str] = (), **more: Any
    ) -> None:
        self.name, self.text = name, documentation
        super().__init__(name, documentation, labelnames, **more)

    def describe(self) -> Iterable[Metric]:
        """Return the family without samples, for the registry to tell names apart."""
        return [Metric(self.name, self.text, "counter")]

    def collect(self) -> Iterable[Metric]:
        """Return the family; its samples have its name."""
        (family,) = self.describe()
        for counted in super().collect():
            for sample in counted.samples:
                if sample.name.endswith("_total"):
                    family.add_sample(self.name, sample.labels, sample.value)
        return [family]


class Bounded:
    """The values that a label may take: the first so many, and ``other`` for the rest."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: set[str] = set()

    def __call__(self, value: str) -> str:
        """Return the label for a value."""
        if value not in self._values:
            if len(self._values) >= self._most:
                return OTHER
            self._values.add(value)
        return value


class Metrics:
    """The process's metrics, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # the only switch it has
        self.registry = CollectorRegistry()
        self.host = Bounded(_HOSTS_MAX)
        """Gives the label of a target's host."""
        self._count_runs()
        self._count_messages()
        self._measure_the_fleet()
        self._measure_the_queues()
        self._count_models()
        self._measure_targets()
        self._measure_the_process()

    def _count_runs(self) -> None:
        run = ("agent", "version", "deployment")
        self.runs_started = self._counter("runs_started_total", "Runs first leased", *run)
        self.runs_failed = self._counter("runs_failed_total", "Runs that failed", *run, "reason")
        self.runs_completed = self._counter(
            "bpa_runs_completed_total", "Runs that came to an end", *run, "outcome"
        )
        self.run_latency_ms = self._histogram(
            "run_latency_ms",
            "Milliseconds from enqueued at the broker to terminal",
            _LATENCY_MS,
            "agent",
            "version",
            "outcome",
        )
        self.queue_wait_s = self._histogram(
            "bpa_run_queue_wait_seconds", "From enqueued at the broker to first leased", _QUEUED_S
        )
        self.placement_s = self._histogram(
            "bpa_placement_duration_seconds", "From received to granted", _PLACEMENT_S
        )
        self.unplaceable = self._gauge("bpa_unplaceable_runs", "Waiting runs", "reason")

    def _count_messages(self) -> None:
        self.settled = self._counter(
            "bpa_messages_settled_total", "Messages settled", "disposition", "result"
        )
        self.lock_renewals = self._counter("bpa_lock_renewals_total", "Locks renewed", "result")
        self.dead_lettered = self._counter(
            "bpa_dlq_messages_total", "Messages that we dead-lettered", "queue", "reason"
        )
        self.dlq_replayed = self._counter(
            "bpa_dlq_replayed_total", "Dead letters replayed", "result"
        )

    def _measure_the_fleet(self) -> None:
        self.slots_used = self._gauge("node_slots_used", "Slots that hold a lease", "node")
        self.slots_capacity = self._gauge("bpa_node_slots_capacity", "Slots of a node", "node")
        self.heartbeat_age_s = self._gauge(
            "bpa_node_heartbeat_age_seconds", "Since a node was last heard of", "node"
        )
        self.drain_overdue_s = self._gauge(
            "bpa_node_drain_overdue_seconds",
            "How long a node has held leases beyond the deadline of its drain",
            "node",
        )
        self.leases_active = self._gauge("bpa_leases_active", "Leases, offers among them")
        self.leases_fenced = self._counter("bpa_leases_fenced_total", "Reports under a stale lease")
        self.leases_expired = self._counter("bpa_leases_expired_total", "Leases that lapsed")

    def _measure_the_queues(self) -> None:
        self.queue_lag = self._gauge("sb_queue_lag", "Messages not settled yet", "queue")
        self.queue_oldest_age_s = self._gauge(
            "bpa_queue_oldest_message_age_seconds", "Age of the oldest when it was read", "queue"
        )
        self.queue_dead_letters = self._gauge("bpa_queue_dead_letters", "Dead letters", "queue")
        self.queue_lag_estimated = self._gauge(
            "bpa_queue_lag_estimated", "Whether the queue's counts are an estimate", "queue"
        )
        self.queue_reading_age_s = self._gauge(
            "bpa_queue_reading_age_seconds", "Since the queue was last read", "queue"
        )

    def _count_models(self) -> None:
        model = ("agent", "model")
        self.tokens_in = self._counter("tokens_in", "Tokens read by models", *model)
        self.tokens_out = self._counter("tokens_out", "Tokens written by models", *model)
        self.usd_cost = self._counter("usd_cost", "USD spent on models", *model)
        self.unpriced_tokens = self._counter(
            "bpa_unpriced_tokens_total", "Tokens that no price is known for", *model
        )
        self.steps_replayed = self._counter(
            "bpa_steps_replayed_total", "Answers that came from the journal", "kind"
        )
        self.budget_exceeded = self._counter(
            "bpa_budget_exceeded_total", "Calls that did not fit a budget", "budget"
        )
        self.sandbox_start_s = self._histogram(
            "bpa_sandbox_start_duration_seconds",
            "From asked for to confined, with its task in hand",
            _SANDBOX_S,
        )

    def _measure_targets(self) -> None:
        self.requests_out = self._counter(
            "bpa_http_out_requests_total", "Requests to targets", "host", "code_class", "outcome"
        )
        self.request_out_s = self._histogram(
            "bpa_http_out_request_duration_seconds", "What a target took", _REQUEST_S, "host"
        )
        self.success_rate = self._gauge(
            "http_out_success_rate", "Share of requests that were taken, over 5 minutes", "host"
        )
        self.breaker_open = self._gauge(
            "bpa_http_out_breaker_open", "Whether no run but a probe goes to the host", "host"
        )
        self.probes = self._counter("bpa_http_out_probes_total", "Probes ended", "host", "result")
        self.runs_parked = self._counter("bpa_runs_parked_total", "Executions parked", "host")

    def _measure_the_process(self) -> None:
        self.ready = self._gauge("bpa_ready", "Whether it takes work, as /readyz says", "component")
        self.loop_lag_s = self._gauge(
            "bpa_event_loop_lag_seconds", "The longest that the loop was late in 30 s"
        )
        self.build_info = self._gauge("bpa_build_info", "1, and what this is", "version")
        self.build_info.labels(__version__).set(1)

    def _counter(self, name: str, text: str, *labels: str) -> NamedCounter:
        return NamedCounter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)


def exposition(metrics: Metrics) -> bytes:
    """Return all metrics in Prometheus's text format."""
    return _APPENDED.sub(rb"\1", generate_latest(metrics.registry))
