"""What a process counts and measures; the names are in the package's docstring."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_LATENCY_MS = (5, 10, 15, 20, 30, 50, 80, 120, 200, 350, 600, 1000, 2000, 5000, 15000, 60000)
_PLACEMENT_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 30, 120)


class Metrics:
    """The process's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        run = ("agent", "version", "deployment")
        self.runs_started = self._counter("runs_started", "Runs first leased", *run)
        self.runs_failed = self._counter("runs_failed", "Runs dead-lettered", *run, "reason")
        self.runs_completed = self._counter("bpa_runs_completed", "Runs completed", *run)
        self.run_latency_ms = Histogram(
            "run_latency_ms",
            "From enqueued at the broker to terminal",
            ("agent", "version", "outcome"),
            buckets=_LATENCY_MS,
            registry=self.registry,
        )
        self.slots_used = Gauge(
            "node_slots_used", "Slots that hold a lease", ("node",), registry=self.registry
        )
        self.settled = self._counter(
            "bpa_messages_settled", "Messages settled", "disposition", "result"
        )
        self.lock_renewals = self._counter("bpa_lock_renewals", "Locks renewed", "result")
        self.placement_s = Histogram(
            "bpa_placement_duration_seconds",
            "From received to granted",
            buckets=_PLACEMENT_S,
            registry=self.registry,
        )
        self.unplaceable = Gauge(
            "bpa_unplaceable_runs", "Waiting runs", ("reason",), registry=self.registry
        )
        model = ("agent", "model")
        self.tokens_in = self._counter("tokens_in", "Tokens read by models", *model)
        self.tokens_out = self._counter("tokens_out", "Tokens written by models", *model)
        self.usd_cost = self._counter("usd_cost", "USD spent on models", *model)
        self.unpriced_tokens = self._counter(
            "bpa_unpriced_tokens", "Tokens that no price is known for", *model
        )
        self.steps_replayed = self._counter(
            "bpa_steps_replayed", "Answers that came from the journal", "kind"
        )
        self.budget_exceeded = self._counter(
            "bpa_budget_exceeded", "Calls that did not fit a budget", "budget"
        )
        self.breaker_open = Gauge(
            "bpa_http_out_breaker_open",
            "Whether no run but a probe goes to the host",
            ("host",),
            registry=self.registry,
        )
        self.probes = self._counter("bpa_http_out_probes", "Probes ended", "host", "result")
        self.runs_parked = self._counter("bpa_runs_parked", "Executions parked", "host")
        self.dlq_replayed = self._counter("bpa_dlq_replayed", "Dead letters replayed", "result")
        self.leases_fenced = self._counter("bpa_leases_fenced", "Reports under a stale lease")
        self.leases_expired = self._counter("bpa_leases_expired", "Leases that lapsed")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)
