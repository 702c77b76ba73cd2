"""Send a registry's metrics over OTLP every 15 s, from a thread of their own."""

from __future__ import annotations

import threading
import time

from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry

from bpa.telemetry.bridge import metrics_data

EVERY_S = 15.0


class Push:
    """Reads the registry and hands what it says to an exporter, until closed.

    Nothing waits in between: what a collector misses it gets with the next sums, which count from
    the start of the process.

    Args:
        registry: What is sent.
        exporter: Sends it, and never raises; closed with the push.
        resource: Who sends it.
        every_s: Seconds between two.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        exporter: MetricExporter,
        resource: Resource,
        every_s: float = EVERY_S,
    ) -> None:
        self._registry = registry
        self._exporter = exporter
        self._resource = resource
        self._every_s = every_s
        self._started_ns = time.time_ns()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otlp-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send once more and stop; waits for a collector that does not answer."""
        self._closing.set()
        self._thread.join()
        self._exporter.shutdown()

    def _run(self) -> None:
        while not self._closing.wait(self._every_s):
            self._send()
        self._send()

    def _send(self) -> None:
        families, now_ns = self._registry.collect(), time.time_ns()
        self._exporter.export(metrics_data(families, self._resource, self._started_ns, now_ns))
