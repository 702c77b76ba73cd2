"""Collector, Prometheus, Tempo, Loki and Grafana: what can be held against their rules here.

Prometheus judges its own file. The other programs are in no package registry that a clean machine
has, so theirs are read as documents: that names refer to what is there, and to each other.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from observability.grafana import dashboards
from observability.programs import Programs
from tests.promtool import promtool

CONFIG = Path(__file__).parents[3] / "config"


def read(name: str) -> Any:
    return yaml.safe_load((CONFIG / name).read_text("utf-8"))


def test_prometheus_takes_its_configuration_and_finds_the_rules(
    prometheus: Programs, tmp_path: Path
) -> None:
    shutil.copytree(CONFIG, tmp_path / "config")
    targets = tmp_path / "config" / "collector" / "targets"
    targets.mkdir()
    (targets / "bpa.json").write_text('[{"targets": ["a:1"], "labels": {"job": "bpa-control"}}]')
    config = tmp_path / "config" / "collector" / "prometheus.yaml"
    said = promtool(prometheus, "check", "config", "--lint-fatal", config)
    assert "2 rule files found" in said


def test_the_collector_limits_memory_first_and_batches_last() -> None:
    collector = read("collector/collector.yaml")
    pipelines = collector["service"]["pipelines"]
    assert set(pipelines) == {"traces", "logs", "metrics"}
    for pipeline in pipelines.values():
        assert set(pipeline["receivers"]) <= set(collector["receivers"])
        assert pipeline["processors"] == ["memory_limiter", "batch"]
        names = [re.sub(r"\$\{env:\w+:-(\w+)\}", r"\1", name) for name in pipeline["exporters"]]
        assert set(names) <= set(collector["exporters"])
    assert set(collector["service"]["extensions"]) <= set(collector["extensions"])


def test_the_collector_sends_to_where_the_stores_listen() -> None:
    exporters = read("collector/collector.yaml")["exporters"]
    tempo, loki = read("collector/tempo.yaml"), read("collector/loki.yaml")
    assert tempo["distributor"]["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"] == (
        "0.0.0.0:4317"
    )
    assert "tempo:4317" in exporters["otlp_grpc/tempo"]["endpoint"]
    port = loki["server"]["http_listen_port"]
    assert f"loki:{port}/otlp" in exporters["otlp_http/loki"]["endpoint"]


def test_a_log_line_leads_to_its_trace_and_its_run_and_back() -> None:
    sources = {source["type"]: source for source in read("grafana/datasources.yaml")["datasources"]}
    assert set(sources) == {"prometheus", "loki", "tempo"}
    links = {link["name"]: link for link in sources["loki"]["jsonData"]["derivedFields"]}
    for name in ("Trace", "Trace (JSON)"):
        assert links[name]["datasourceUid"] == sources["tempo"]["uid"]
    line = '{"event":"run_ended","trace_id":"0af7651916cd43dd8448eb211c80319c"}'
    assert re.search(links["Trace (JSON)"]["matcherRegex"], line)
    back = sources["tempo"]["jsonData"]["tracesToLogsV2"]
    assert back["datasourceUid"] == sources["loki"]["uid"]
    assert "$${__trace.traceId}" in back["query"]
    run = dashboards()["run-latency"]
    assert f"/d/{run.uid}?var-run_id=" in links["Run"]["url"]
    assert "run_id" in [choice.name for choice in run.choices]
