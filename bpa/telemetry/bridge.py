"""The metrics of a registry as OpenTelemetry has them. Pure.

`/metrics` and OTLP show the same registry. Counters become cumulative sums, whose start is that of
the process; histograms keep their bounds; what is neither becomes a gauge.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Sample

from bpa import __version__

_SCOPE = InstrumentationScope("bpa", __version__)
_UNITS = {"seconds": "s", "ms": "ms", "usd": "USD"}
_CUMULATIVE = AggregationTemporality.CUMULATIVE


def metrics_data(
    families: Iterable[Family], resource: Resource, started_ns: int, now_ns: int
) -> MetricsData:
    """Return what a registry collected, for a `MetricExporter`.

    Args:
        families: As ``CollectorRegistry.collect`` yields them.
        resource: Who sends them.
        started_ns: Since when counters count, nanoseconds of the wall clock.
        now_ns: When they were collected.
    """
    metrics = [
        Metric(family.name, family.documentation, _unit(family.name), data)
        for family in families
        if (data := _data(family, started_ns, now_ns)).data_points
    ]
    scope = ScopeMetrics(_SCOPE, metrics, schema_url="")
    return MetricsData([ResourceMetrics(resource, [scope], schema_url="")])


def _data(family: Family, started_ns: int, now_ns: int) -> Sum | Gauge | Histogram:
    if family.type == "histogram":
        return Histogram(_histogram(family.samples, started_ns, now_ns), _CUMULATIVE)
    points = [
        NumberDataPoint(dict(one.labels), started_ns, now_ns, one.value) for one in family.samples
    ]
    if family.type == "counter":
        return Sum(points, _CUMULATIVE, is_monotonic=True)
    return Gauge(points)


def _histogram(samples: Sequence[Sample], started_ns: int, now_ns: int) -> list[HistogramDataPoint]:
    """Return a point for each set of labels; the text format counts each bucket's predecessors."""
    bounds: dict[tuple[tuple[str, str], ...], list[float]] = defaultdict(list)
    counts: dict[tuple[tuple[str, str], ...], list[int]] = defaultdict(list)
    sums: dict[tuple[tuple[str, str], ...], float] = {}
    for sample in samples:
        key = tuple((name, value) for name, value in sample.labels.items() if name != "le")
        if sample.name.endswith("_bucket"):
            bounds[key].append(float(sample.labels["le"]))
            counts[key].append(int(sample.value))
        elif sample.name.endswith("_sum"):
            sums[key] = sample.value
    return [
        HistogramDataPoint(
            dict(key),
            started_ns,
            now_ns,
            count=upto[-1],
            sum=sums[key],
            bucket_counts=[more - fewer for fewer, more in pairwise([0, *upto])],
            explicit_bounds=bounds[key][:-1],  # the last is infinity
            min=None,  # type: ignore[arg-type] # unknown, which the wire allows
            max=None,  # type: ignore[arg-type]
        )
        for key, upto in counts.items()
    ]


def _unit(name: str) -> str:
    """Return the unit in UCUM's spelling, by the last word of a name but ``total``."""
    words = name.removesuffix("_total").split("_")
    return _UNITS.get(words[-1]) or _UNITS.get(words[0], "")
