"""Metrics over OTLP: what arrives is what /metrics shows, whatever the protocol."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE
from structlog.testing import capture_logs

from bpa.config import Settings, Telemetry
from bpa.telemetry.metrics import Metrics
from bpa.telemetry.otlp import closed_within, metric_exporter, resource_of
from bpa.telemetry.push import Push
from tests.eventually import eventually
from tests.integration.telemetry.collectors import PROTOCOLS, attributes, collector_of


def push_to(url: str, protocol: str, metrics: Metrics, every_s: float = 0.05) -> Push:
    telemetry = Telemetry(otlp_endpoint=url, otlp_protocol=protocol)
    resource = resource_of(Settings(environment="test"), "bpa-control", "replica-1")
    return Push(metrics.registry, metric_exporter(telemetry), resource, every_s)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_what_arrives_is_what_the_registry_holds(protocol: str) -> None:
    metrics = Metrics()
    metrics.tokens_in.labels("agent", "model").inc(1200)
    metrics.usd_cost.labels("agent", "model").inc(0.25)
    metrics.slots_used.labels("node-1").set(3)
    for took_ms in (4, 5, 7, 100_000):
        metrics.run_latency_ms.labels("agent", "1.0.0", "completed").observe(took_ms)
    async with collector_of(protocol) as taken:
        push = push_to(taken.url, protocol, metrics)
        await eventually(lambda: len(taken.requests["metrics"]) > 1)
        metrics.tokens_in.labels("agent", "model").inc(1)
        await asyncio.to_thread(push.close)
    got = taken.metrics()
    (tokens,) = got["tokens_in"].sum.data_points
    assert tokens.as_double == 1201, "the last state is sent at the end"
    assert got["tokens_in"].sum.is_monotonic
    assert got["tokens_in"].sum.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
    assert attributes(tokens.attributes) == {"agent": "agent", "model": "model"}
    assert 0 < tokens.start_time_unix_nano < tokens.time_unix_nano <= time.time_ns()
    assert got["usd_cost"].unit == "USD"
    (slots,) = got["node_slots_used"].gauge.data_points
    assert (attributes(slots.attributes), slots.as_double) == ({"node": "node-1"}, 3)
    (latency,) = got["run_latency_ms"].histogram.data_points
    assert (latency.count, latency.sum) == (4, 100_016)
    assert list(latency.explicit_bounds)[:3] == [5, 10, 15]
    assert list(latency.bucket_counts) == [2, 1, *[0] * 14, 1]
    assert len(latency.bucket_counts) == len(latency.explicit_bounds) + 1
    assert not latency.HasField("min")
    (of_resource,) = taken.requests["metrics"][-1].resource_metrics
    sender = attributes(of_resource.resource.attributes)
    assert sender["service.name"] == "bpa-control"
    assert sender["service.instance.id"] == "replica-1"
    assert sender["deployment.environment.name"] == "test"


@pytest.fixture
def silence() -> Iterator[str]:
    """Something that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_collector_that_never_answers_holds_nobody_up(silence: str, protocol: str) -> None:
    with capture_logs() as lines:
        push = push_to(silence, protocol, Metrics(), every_s=0.01)
        started_s = time.monotonic()
        closed_within(0.5, push.close)
        assert time.monotonic() - started_s < 2
        push._thread.join(20)
    assert [line["event"] for line in lines][:1] in ([], ["telemetry_not_delivered"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_outage_is_two_lines_and_the_sums_are_whole_afterwards(protocol: str) -> None:
    with socket.socket() as nobody:  # bound, so that nobody else gets the port, and not listening
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with capture_logs() as lines:
            push = push_to(url, protocol, Metrics(), every_s=0.01)
            time_limit_s = time.monotonic() + 15
            while not lines and time.monotonic() < time_limit_s:
                push._thread.join(0.05)
            closed_within(5, push.close)
    assert [line["event"] for line in lines] == ["telemetry_not_delivered", "telemetry_lost"]
    assert lines[0]["endpoint"] == url
    assert lines[0]["why"] != "it took nothing", lines[0]
