"""The names of metrics: declared once, exposed as declared, and no more series than there are."""

from __future__ import annotations

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

import bpa.telemetry
from bpa.control.deployments import Feeding
from bpa.control.measure import Measured
from bpa.control.runs import Ended, Verdict
from bpa.domain.journal import Usage
from bpa.domain.runs import DeploymentId, RunId
from bpa.domain.specs import DeploymentSpec
from bpa.errors import Reason
from bpa.node.measure import Measured as NodeMeasured
from bpa.telemetry.metrics import OTHER, Bounded, Metrics, exposition

ROW = re.compile(r"^    (\w+) +(counter|gauge|histogram) +(.+)$", re.MULTILINE)
SPEC = DeploymentSpec(agent_id="a", version="1", environment="dev")
AS_WRITTEN = {"run_latency_ms", "tokens_in", "tokens_out", "usd_cost"}
"""Names of the architecture document that Prometheus's conventions would have otherwise."""


def declared() -> dict[str, tuple[str, tuple[str, ...]]]:
    """What `Metrics` declares: type and labels by name."""
    registry = Metrics().registry
    return {
        family.name: (family.type, tuple(metric._labelnames))
        for metric in registry._collector_to_names
        for family in metric.describe()
    }


def lines_of(metrics: Metrics) -> list[str]:
    return exposition(metrics).decode().splitlines()


def test_the_table_and_the_class_agree() -> None:
    table = {
        name: (kind, () if labels == "-" else tuple(labels.split(", ")))
        for name, kind, labels in ROW.findall(bpa.telemetry.__doc__ or "")
    }
    assert table == declared()


def test_a_counter_is_exposed_under_the_name_it_was_given() -> None:
    metrics = Metrics()
    metrics.tokens_in.labels("a", "m").inc(3)
    metrics.runs_started.labels("a", "1", "d").inc()
    lines = lines_of(metrics)
    assert "# TYPE tokens_in counter" in lines
    assert 'tokens_in{agent="a",model="m"} 3.0' in lines
    assert "# TYPE runs_started_total counter" in lines
    assert 'runs_started_total{agent="a",deployment="d",version="1"} 1.0' in lines
    assert not [line for line in lines if "_total_total" in line or "_created" in line]
    assert not [line for line in lines if re.search(r"(tokens_in|tokens_out|usd_cost)_total", line)]


def test_what_is_exposed_can_be_read_and_has_a_text_for_each_name() -> None:
    metrics = Metrics()
    metrics.run_latency_ms.labels("a", "1", "completed").observe(12)
    families = list(text_string_to_metric_families(exposition(metrics).decode()))
    assert {family.type for family in families} == {"counter", "gauge", "histogram"}
    assert all(family.documentation for family in families)


def test_names_keep_to_the_conventions_but_for_those_that_are_given() -> None:
    """The rules of ``promtool check metrics``."""
    for name, (kind, labels) in declared().items():
        if name in AS_WRITTEN:
            continue
        assert re.fullmatch(r"[a-z][a-z0-9_]*[a-z0-9]", name)
        assert name.endswith("_total") == (kind == "counter"), name
        assert not re.search(r"_(ms|s|us|sec|minutes|kb|mb|milliseconds)(_total)?$", name), name
        assert not re.search(r"_(count|sum|bucket|counter|gauge|histogram)\b", name), name
        assert not {"le", "quantile"} & set(labels)


def test_ten_thousand_runs_make_no_more_series_than_a_hundred() -> None:
    metrics = Metrics()
    measured = Measured(metrics)
    series = {}
    for number in range(10_000):
        reason = ("", "RetriesExhausted", "BudgetExceeded")[number % 3]
        status = "dead_lettered" if reason else "completed"
        row = {
            "agent_id": "agent", "version": "1.0.0", "dep_id": "dep", "status": status,
            "reason": reason, "detail": f"detail {number}", "trace_id": f"{number:032x}",
            "node_id": f"node-{number % 4}", "latency_ms": number,
        }  # fmt: skip
        verdict = Verdict(RunId(f"run-{number}"), not reason, reason, row["detail"])
        measured.ended(Ended(row, verdict, None))
        if number + 1 in (100, 10_000):
            series[number + 1] = len([one for one in lines_of(metrics) if one[0] != "#"])
    assert series[100] == series[10_000]


def test_a_label_that_is_bounded_takes_the_first_values_and_calls_the_rest_other() -> None:
    label = Bounded(2)
    assert [label(value) for value in ("a", "b", "c", "a", "d")] == ["a", "b", OTHER, "a", OTHER]


@pytest.mark.parametrize("one", ["bpa_build_info", "bpa_event_loop_lag_seconds"])
def test_a_process_shows_itself_from_the_start(one: str) -> None:
    assert [line for line in lines_of(Metrics()) if line.startswith(one)]


def test_what_can_be_counted_of_a_deployment_is_there_before_its_first_run() -> None:
    metrics = Metrics()
    measured = Measured(metrics)
    for number in range(1_000):
        dep = DeploymentId(f"dep-{number}")
        measured.fed(Feeding(dep, "a", "1", "q", SPEC, 1))
    lines = lines_of(metrics)
    given = 'agent="a",deployment="dep-0",{}version="1"'
    assert f"runs_started_total{{{given.format('')}}} 0.0" in lines
    for reason in Reason:
        failed = given.format(f'reason="{reason}",')
        assert f"runs_failed_total{{{failed}}} 0.0" in lines
        assert f'bpa_dlq_messages_total{{queue="q",reason="{reason}"}} 0.0' in lines
    assert len(lines) < 3_000


def test_tokens_without_a_price_are_shown_from_0_on_and_never_as_0_usd() -> None:
    metrics = Metrics()
    measured = NodeMeasured(metrics)
    measured.model_asked("a", "m")
    assert 'bpa_unpriced_tokens_total{agent="a",model="m"} 0.0' in lines_of(metrics)
    measured.model_answered("a", "m", Usage(input_tokens=5, unpriced_tokens=5))
    lines = lines_of(metrics)
    assert 'bpa_unpriced_tokens_total{agent="a",model="m"} 5.0' in lines
    assert not [line for line in lines if line.startswith("usd_cost{")]


HOSTILE = ['a"b', "a\nb", "a\\b", "\u00fc\u2028\U0001f9fe", "{}=,", "", "\x7f\t", "x" * 500]


@pytest.mark.parametrize("value", HOSTILE)
def test_no_value_of_a_label_breaks_the_page(value: str) -> None:
    metrics = Metrics()
    metrics.dead_lettered.labels(value, "r").inc(3)
    metrics.run_latency_ms.labels(value, "1", "completed").observe(1)
    families = text_string_to_metric_families(exposition(metrics).decode())
    samples = [sample for family in families for sample in family.samples]
    assert ("bpa_dlq_messages_total", {"queue": value, "reason": "r"}, 3.0) in [
        (sample.name, sample.labels, sample.value) for sample in samples
    ]
