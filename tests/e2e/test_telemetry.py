"""What a live system shows of itself: everything that it should, no secret, no payload, no ids."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.fleet import Backing, Fleet, backing
from tests.e2e.queues import documents, emptied, send
from tests.e2e.server import Bpa, serving
from tests.eventually import eventually
from tests.integration.telemetry.collectors import Taken, attributes, collector_of

INVOICES = [d for d in documents() if d.content_type == "application/json"][:6]
VENDOR = "Marked Vendor of No Log GmbH"
SECRETS = {
    "postgres": "marked-word-of-postgres",
    "service bus": "marked+key/of=servicebus",
    "model": "sk-ant-marked-key-of-model",
    "text": "marked text of an invoice",
    "vendor": VENDOR,
}
ALL_LABELS = {
    "agent", "version", "deployment", "reason", "outcome", "disposition", "result", "queue", "node",
    "model", "kind", "budget", "host", "code_class", "component", "le",
}  # fmt: skip
SAMPLE = re.compile(r"^(\w+)(\{.*\})? (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')
AN_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-|[0-9a-f]{16}")


@dataclass(slots=True)
class Shown:
    """What control and a node showed after some runs, good and bad."""

    control: Bpa
    node: Bpa
    metrics: dict[str, str]
    """Text of ``/metrics`` by role."""
    taken: dict[str, Taken]
    """What OTLP collectors were sent, by role."""
    runs: list[dict[str, Any]]

    def samples(self, role: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        return {
            (name, tuple(sorted(LABEL.findall(labels)))): float(value)
            for name, labels, value in SAMPLE.findall(self.metrics[role])
        }

    def total(self, role: str, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        return sum(
            value
            for (of, given), value in self.samples(role).items()
            if of == name and labels.items() <= dict(given).items()
        )


@pytest.fixture(scope="module")
def shown(
    runner: asyncio.Runner, made_cluster: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shown]:
    stack = AsyncExitStack()
    directory = tmp_path_factory.mktemp("telemetry")
    yield runner.run(watch(stack, directory, made_cluster))
    runner.run(stack.aclose())


async def watch(stack: AsyncExitStack, directory: Path, cluster: Path) -> Shown:
    """Run some good and bad messages through control and a node, each with a collector."""
    servers: Backing = await stack.enter_async_context(backing(directory, cluster, ["here"]))
    settings = await servers.settings()
    settings["postgres.dsn"] += f"&password={SECRETS['postgres']}"
    settings["service_bus.connection_string"] = re.sub(
        r"SharedAccessKey=[^;]*",
        f"SharedAccessKey={SECRETS['service bus']}",
        servers.local.service_bus,
    )
    settings["anthropic.api_key"] = SECRETS["model"]
    settings["log.level"] = "debug"
    taken = {
        "control": await stack.enter_async_context(collector_of("http/protobuf")),
        "node": await stack.enter_async_context(collector_of("grpc")),
    }
    fleet = Fleet(directory, settings, servers.local)
    control = await stack.enter_async_context(
        fleet.governed(**{"telemetry.otlp_endpoint": taken["control"].url})
    )
    otlp = {"telemetry.otlp_endpoint": taken["node"].url, "telemetry.otlp_protocol": "grpc"}
    node = await stack.enter_async_context(fleet.node("sydney", "aus-east", **otlp))
    await fleet.deploy("here", ["aus-east"])
    marked = INVOICES[0].body.replace(INVOICES[0].expected["vendor"].encode(), VENDOR.encode())
    text = f"{SECRETS['text']}: no amount at all".encode()
    bodies = [(d.body, d.content_type) for d in INVOICES] + [
        (marked, "application/json"),
        (b'{"' + text, "application/json"),
        (text, "text/plain"),
    ]
    traces = await send(control.addresses["service_bus"], bodies, "here")
    await control.ended_of(traces, within_s=40)
    rules = [{"status": 500}]
    await control.put("/_target/script", {"rules": rules}, "target")
    failed = await send(control.addresses["service_bus"], bodies[:1], "here")
    await control.ended_of(failed, within_s=40)
    await emptied(control.addresses["service_bus"], "here")
    shown = Shown(control, node, {}, taken, await control.runs())

    async def counted() -> bool:
        shown.metrics = {
            "control": await text_of(control.addresses["http"]),
            "node": await text_of(node.addresses["node_health"]),
        }
        assert shown.total("control", "bpa_runs_completed_total") == len(shown.runs)
        assert shown.total("control", "bpa_node_slots_capacity") == 8
        assert 0 < shown.total("node", "http_out_success_rate") < 1
        return True

    await eventually(counted, within_s=10)
    assert await node.stop() == 0  # what waits is sent
    assert await control.stop() == 0
    return shown


async def text_of(url: str) -> str:
    async with aiohttp.ClientSession(url) as session, session.get("/metrics") as response:
        assert response.status == 200
        return await response.text()


def test_both_roles_show_what_they_did(shown: Shown) -> None:
    completed = [run for run in shown.runs if run["status"] == "completed"]
    failed = [run for run in shown.runs if run["status"] != "completed"]
    assert len(completed) >= 6
    assert failed
    total = shown.total
    assert total("control", "runs_started_total") == sum(r["executions"] > 0 for r in shown.runs)
    assert total("control", "bpa_runs_completed_total", outcome="completed") == len(completed)
    assert total("control", "runs_failed_total") == len(failed)
    assert total("control", "bpa_dlq_messages_total", queue="here") == len(failed)
    assert total("control", "run_latency_ms_count") == len(shown.runs)
    assert total("control", "bpa_run_queue_wait_seconds_count") >= len(completed)
    assert total("control", "bpa_node_slots_capacity", node="sydney") == 8
    assert total("control", "bpa_node_heartbeat_age_seconds", node="sydney") < 10
    assert total("control", "bpa_ready", component="control") == 1
    assert total("node", "bpa_ready", component="node") == 1
    assert total("node", "bpa_node_slots_capacity", node="sydney") == 8
    assert total("node", "tokens_in") + total("node", "tokens_out") == sum(
        run["tokensUsed"] for run in shown.runs
    )
    applied = total("node", "bpa_http_out_requests_total", outcome="applied", code_class="2xx")
    assert applied == len(completed)
    assert total("node", "bpa_http_out_requests_total", outcome="failed", code_class="5xx") == 4
    assert 0 < total("node", "http_out_success_rate") < 1
    assert total("node", "bpa_sandbox_start_duration_seconds_count") >= len(completed)
    assert total("node", "bpa_build_info") == 1


@pytest.mark.parametrize("role", ["control", "node"])
def test_labels_are_few_and_hold_no_ids(shown: Shown, role: str) -> None:
    ids = {run[key] for run in shown.runs for key in ("runId", "traceId") if run.get(key)}
    assert ids
    samples = shown.samples(role)
    assert len(samples) < 400
    for _, labels in samples:
        assert {name for name, _ in labels} <= ALL_LABELS
        for name, value in labels:
            assert len(value) <= 60, (name, value)
            assert value not in ids
            assert not AN_ID.search(value), (name, value)


@pytest.mark.parametrize("role", ["control", "node"])
@pytest.mark.parametrize("marked", SECRETS)
def test_no_secret_and_no_payload_leaves_but_where_it_should(
    shown: Shown, role: str, marked: str
) -> None:
    secret = SECRETS[marked]
    one = shown.control if role == "control" else shown.node
    assert one.log_text()
    assert secret not in one.log_text()
    assert secret not in shown.metrics[role]
    for signal in ("metrics", "logs"):
        assert shown.taken[role].requests[signal]
        assert secret not in str(shown.taken[role].requests[signal])
    assert secret not in str(shown.taken[role].requests["traces"])


@pytest.mark.parametrize("role", ["control", "node"])
def test_every_line_is_a_document_and_a_record_as_well(shown: Shown, role: str) -> None:
    one = shown.control if role == "control" else shown.node
    lines = one.log_lines()
    assert len(lines) == len(one.log_text().splitlines())
    assert all(list(line)[:3] == ["timestamp", "level", "event"] for line in lines)
    records = shown.taken[role].records()
    sent = [record.body.string_value for _, record in records]
    assert sent == [line["event"] for line in lines][: len(sent)]
    assert len(sent) >= len(lines) - 3, "but for the very last"
    of_runs = [record for _, record in records if "run_id" in attributes(record.attributes)]
    assert of_runs
    assert all(record.trace_id and record.span_id for record in of_runs)
    assert {sender["service.name"] for sender, _ in records} == {f"bpa-{role}"}


@pytest.mark.parametrize("role", ["control", "node"])
def test_otlp_has_the_metrics_of_the_scrape(shown: Shown, role: str) -> None:
    sent = shown.taken[role].metrics()
    scraped = set(re.findall(r"^# TYPE (\w+) ", shown.metrics[role], re.MULTILINE))
    assert scraped >= sent.keys()
    assert {"bpa_build_info", "bpa_ready", "bpa_event_loop_lag_seconds"} <= sent.keys()


async def test_role_all_shows_control_and_node_on_the_ports_of_both(server: Bpa) -> None:
    async def both() -> bool:
        for base in ("http", "node_health"):
            text = await text_of(server.addresses[base])
            for line in (
                'bpa_ready{component="control"} 1.0',
                'bpa_ready{component="node"} 1.0',
                f'bpa_node_slots_capacity{{node="{socket.gethostname()}"}} 8.0',
            ):
                assert line in text.splitlines(), base
        return True

    await eventually(both, within_s=10)


@pytest.fixture
async def silence() -> AsyncIterator[str]:
    """Something that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_a_collector_that_never_answers_costs_no_run_and_little_time(
    old_data_dir: Path, silence: str, protocol: str
) -> None:
    settings = {"telemetry.otlp_endpoint": silence, "telemetry.otlp_protocol": protocol}
    async with serving(old_data_dir, **settings) as server:
        bodies = [(d.body, d.content_type) for d in INVOICES]
        sent = await send(server.addresses["service_bus"], bodies)
        runs = await server.ended_of(sent)
        assert {run["status"] for run in runs.values()} == {"completed"}
        asked_s = time.monotonic()
        assert await server.stop() == 0
        took_s = time.monotonic() - asked_s
    assert took_s < 8, "two or three seconds are what a stop takes"
    lines = [line for line in server.log_lines() if line["event"] == "telemetry_not_delivered"]
    told = [line["signal"] for line in lines]
    assert len(told) == len(set(told)), "an outage is one line for each signal"
    strange = [line for line in server.log_text().splitlines() if not line.startswith("{")]
    assert not strange
