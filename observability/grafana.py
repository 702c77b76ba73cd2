"""Grafana's dashboards, drawn from ``dashboards/*.yaml`` into ``config/dashboards``.

The sources say what an operator asks and which query answers it; here is what Grafana wants
besides: schema 39 (Grafana 10.4 and newer), rows of panels laid out from left to right, and data
sources as variables of each dashboard, so that a file fits any Grafana.

In the sources, what several control replicas tell alike (queues, nodes, waiting runs) is taken
once, with ``max`` or ``min``; what each process counts for itself is summed.

``python -m observability.grafana`` (``make dashboards``) draws them; a test compares.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

SOURCES = Path(__file__).parent / "dashboards"
DRAWN = Path(__file__).parents[1] / "config" / "dashboards"
_WIDTH = 24
"""Columns of Grafana's grid."""
_SCHEMA = 39
_LABELS = {"prometheus": "Metrics", "loki": "Logs", "tempo": "Traces"}
_PLUGINS = {"lines": "timeseries", "stacked": "timeseries", "number": "stat", "traces": "table"}
_GREEN, _ORANGE, _RED = "green", "orange", "red"

Json = dict[str, Any]


class _Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a source; a key that nobody reads is an error."""


class Panel(_Source, frozen=True):
    """One panel.

    Its queries go to Prometheus, those of ``logs`` to Loki, those of ``traces`` to Tempo.
    """

    title: str
    help: str
    """What it shows and what to make of it; behind the (i) of the panel."""
    query: str = ""
    """The only one, whose series are called by their labels."""
    queries: dict[str, str] = {}
    """Several, by what their series are called."""
    kind: Literal["lines", "stacked", "number", "table", "heatmap", "logs", "traces"] = "lines"
    unit: str = "short"
    width: int = 8
    height: int = 8
    warn_above: float | None = None
    bad_above: float | None = None
    bad_below: float | None = None
    log_scale: bool = False
    words: dict[str, str] = {}
    """Values, and what to write in their place."""

    @property
    def source(self) -> str:
        """The variable that names its data source."""
        return {"logs": "loki", "traces": "tempo"}.get(self.kind, "prometheus")

    @property
    def named_queries(self) -> dict[str, str]:
        """All queries, by what their series are called."""
        return self.queries or {"__auto": self.query}


class Row(_Source, frozen=True):
    """A question, and the panels that answer it."""

    title: str
    panels: list[Panel]


class Choice(_Source, frozen=True):
    """A variable: the values that a label of a metric has, or with no metric a text to type."""

    name: str
    metric: str = ""


class Dashboard(_Source, frozen=True):
    """A dashboard: one file."""

    uid: str
    title: str
    help: str
    choices: list[Choice]
    rows: list[Row]

    @property
    def panels(self) -> list[Panel]:
        """The panels of all rows."""
        return [panel for row in self.rows for panel in row.panels]


def dashboards() -> dict[str, Dashboard]:
    """Return all dashboards by the name of their file."""
    return {
        path.stem: msgspec.yaml.decode(path.read_bytes(), type=Dashboard)
        for path in sorted(SOURCES.glob("*.yaml"))
    }


def as_prometheus_takes(query: str, window: str) -> str:
    """Return a query without Grafana's variables: all choices taken, over a window such as 5m."""
    every = re.sub(r'"\$\w+"', '".*"', query)
    return re.sub(r"\$__(range|rate_interval)", window, every)


def drawn(dashboard: Dashboard) -> str:
    """Return a dashboard as Grafana reads it."""
    document = {
        "uid": dashboard.uid,
        "title": f"BPA / {dashboard.title}",
        "description": dashboard.help,
        "tags": ["bpa"],
        "schemaVersion": _SCHEMA,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [
            {"type": "dashboards", "title": "BPA", "tags": ["bpa"], "asDropdown": False,
             "keepTime": True, "includeVars": False, "targetBlank": False}
        ],
        "templating": {"list": [*_sources(dashboard), *map(_choice, dashboard.choices)]},
        "panels": list(_laid_out(dashboard)),
    }  # fmt: skip
    return json.dumps(document, indent=2) + "\n"


def _sources(dashboard: Dashboard) -> Iterator[Json]:
    used = {"prometheus"} | {panel.source for panel in dashboard.panels}
    for name, label in _LABELS.items():
        if name in used:
            yield {"type": "datasource", "name": name, "label": label, "query": name,
                   "current": {}, "refresh": 1, "hide": 0}  # fmt: skip


def _laid_out(dashboard: Dashboard) -> Iterator[Json]:
    number, y = 1, 0
    for row in dashboard.rows:
        at = {"h": 1, "w": _WIDTH, "x": 0, "y": y}
        yield {"id": number, "type": "row", "title": row.title, "gridPos": at,
               "collapsed": False, "panels": []}  # fmt: skip
        number, y, x, tallest = number + 1, y + 1, 0, 0
        for panel in row.panels:
            if x + panel.width > _WIDTH:
                x, y, tallest = 0, y + tallest, 0
            at = {"h": panel.height, "w": panel.width, "x": x, "y": y}
            yield {"id": number, "gridPos": at, **_panel(panel)}
            number, x, tallest = number + 1, x + panel.width, max(tallest, panel.height)
        y += tallest


def _choice(choice: Choice) -> Json:
    if not choice.metric:
        return {"type": "textbox", "name": choice.name, "label": choice.name, "query": "",
                "current": {"text": "", "value": ""}, "hide": 0}  # fmt: skip
    query = f"label_values({choice.metric}, {choice.name})"
    return {
        "type": "query", "name": choice.name, "label": choice.name,
        "datasource": _uid("prometheus"),
        "definition": query, "query": {"query": query, "refId": choice.name}, "refresh": 2,
        "sort": 1, "multi": True, "includeAll": True, "allValue": ".*", "hide": 0,
        "current": {"text": "All", "value": "$__all"},
    }  # fmt: skip


def _uid(source: str) -> Json:
    return {"type": source, "uid": f"${{{source}}}"}


def _panel(panel: Panel) -> Json:
    return {
        "type": _PLUGINS.get(panel.kind, panel.kind),
        "title": panel.title,
        "description": panel.help,
        "datasource": _uid(panel.source),
        "targets": [
            _target(panel, letter, legend, query)
            for letter, (legend, query) in zip(
                "ABCDEFGH", panel.named_queries.items(), strict=False
            )
        ],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
        **({"transformations": _AS_COLUMNS} if panel.kind == "table" else {}),
    }


_AS_COLUMNS = [
    {"id": "labelsToFields", "options": {"mode": "columns"}},
    {"id": "merge", "options": {}},
    {"id": "organize", "options": {"excludeByName": {"Time": True, "__name__": True}}},
]


def _target(panel: Panel, letter: str, legend: str, query: str) -> Json:
    target: Json = {"refId": letter, "datasource": _uid(panel.source)}
    if panel.kind == "traces":
        return {**target, "queryType": "traceql", "tableType": "traces", "query": query}
    target["expr"] = query
    if panel.kind == "logs":
        return {**target, "queryType": "range", "maxLines": 500}
    is_now = panel.kind in ("number", "table")
    target |= {"legendFormat": legend, "range": not is_now, "instant": is_now}
    return {**target, "format": panel.kind if panel.kind in ("table", "heatmap") else "time_series"}


def _defaults(panel: Panel) -> Json:
    defaults: Json = {"unit": panel.unit, "thresholds": _thresholds(panel)}
    if panel.words:
        options = {value: {"text": word} for value, word in panel.words.items()}
        defaults["mappings"] = [{"type": "value", "options": options}]
    if panel.kind in ("lines", "stacked"):
        has_limit = (panel.bad_above, panel.bad_below, panel.warn_above) != (None, None, None)
        defaults["min"] = 0
        defaults["custom"] = {
            "drawStyle": "line",
            "fillOpacity": 30 if panel.kind == "stacked" else 8,
            "showPoints": "auto",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.kind == "stacked" else "none", "group": "A"},
            "scaleDistribution": {"type": "log", "log": 10}
            if panel.log_scale
            else {"type": "linear"},
            "thresholdsStyle": {"mode": "dashed" if has_limit else "off"},
        }
        if panel.log_scale:
            del defaults["min"]
    return defaults


def _thresholds(panel: Panel) -> Json:
    steps: list[Json] = [{"color": _GREEN, "value": None}]
    if panel.bad_below is not None:
        steps = [{"color": _RED, "value": None}, {"color": _GREEN, "value": panel.bad_below}]
    if panel.warn_above is not None:
        steps.append({"color": _ORANGE, "value": panel.warn_above})
    if panel.bad_above is not None:
        steps.append({"color": _RED, "value": panel.bad_above})
    return {"mode": "absolute", "steps": steps}


def _options(panel: Panel) -> Json:
    match panel.kind:
        case "lines" | "stacked":
            return {
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }
        case "number":
            return {
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                "colorMode": "background", "graphMode": "none", "textMode": "auto",
            }  # fmt: skip
        case "heatmap":
            return {
                "calculate": False,
                "yAxis": {"unit": panel.unit},
                "tooltip": {"mode": "single"},
            }
        case "logs":
            return {"showTime": True, "wrapLogMessage": True, "enableLogDetails": True,
                    "sortOrder": "Descending", "dedupStrategy": "none"}  # fmt: skip
        case _:
            return {}


def draw() -> None:
    """Write the files of all dashboards."""
    DRAWN.mkdir(exist_ok=True)
    for name, dashboard in dashboards().items():
        (DRAWN / f"{name}.json").write_text(drawn(dashboard), "utf-8")


if __name__ == "__main__":
    draw()
