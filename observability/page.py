"""The dashboards without Grafana: a page of links to Prometheus's own graphs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from urllib.parse import urlencode

from observability.grafana import Panel, as_prometheus_takes, dashboards

_WINDOW = "1m"
_SPAN = "15m"
_HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>BPA dashboards</title>
<style>
  body { font: 16px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }
  h2 { margin: 2em 0 0 } li { margin: .3em 0 } small { color: #555 }
</style>
<h1>BPA dashboards</h1>
<p>The queries of <code>config/dashboards</code>, drawn by Prometheus; Grafana draws them better.
Logs are on the standard error of the server; <code>bpa runs show RUN</code> tells all of a run.
<a href="{pages}/alerts">Alerts</a>, <a href="{pages}/targets">what is scraped</a>.</p>
"""


def write_page(folder: Path, pages: str) -> None:
    """Write the page, as ``index.html`` of a folder that Prometheus serves.

    Args:
        folder: Where to.
        pages: The path of Prometheus's own pages.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join([_HEAD.replace("{pages}", pages), *_body(pages), "</html>", ""])
    (folder / "index.html").write_text(text, "utf-8")


def graph_of(panels: Iterable[Panel], pages: str) -> str:
    """Return where Prometheus draws the panels, those of numbers as tables."""
    words: list[tuple[str, str]] = []
    queries = ((panel, query) for panel in panels for query in panel.named_queries.values())
    for number, (panel, query) in enumerate(queries):
        words += [
            (f"g{number}.expr", as_prometheus_takes(query, _WINDOW)),
            (f"g{number}.tab", "1" if panel.kind in ("number", "table") else "0"),
            (f"g{number}.range_input", _SPAN),
        ]
    return f"{pages}/graph?{urlencode(words)}"


def _body(pages: str) -> Iterator[str]:
    for dashboard in dashboards().values():
        yield f"<h2>{escape(dashboard.title)}</h2><p>{escape(dashboard.help)}</p>"
        for row in dashboard.rows:
            panels = [panel for panel in row.panels if panel.source == "prometheus"]
            if panels:
                link = escape(graph_of(panels, pages))
                yield f'<p><a href="{link}">{escape(row.title)}</a></p><ul>'
                yield from (_item(panel, pages) for panel in panels)
                yield "</ul>"


def _item(panel: Panel, pages: str) -> str:
    link = escape(graph_of([panel], pages))
    return (
        f'<li><a href="{link}">{escape(panel.title)}</a> <small>{escape(panel.help)}</small></li>'
    )
