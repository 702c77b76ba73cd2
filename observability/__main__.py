"""``make observability``: Prometheus beside the server that ``make serve`` runs, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

from bpa.config import load
from bpa.errors import BpaError
from bpa.roles.addresses import read_addresses
from observability.page import write_page
from observability.programs import FOLDER, Missing, programs
from observability.prometheus import NotStarted, Prometheus, running

_EVERY = "5s"
_LOOK_EVERY_S = 1.0
_GRAFANA = """\
Grafana, Tempo and Loki are in no package registry; where you have them, config/grafana has their
data sources, config/collector what feeds them, config/dashboards the dashboards.
Traces: bpa runs show RUN tells all of one; telemetry.otlp_endpoint sends them to any collector.
Ctrl-C ends it; what it has seen stays in {folder}."""


def main() -> int:
    """Run Prometheus until Ctrl-C or SIGTERM; return the exit code."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        data_dir = Path(load(os.environ).settings.data_dir)
        if not (FOLDER / "prometheus").exists():
            _say("Looking for Prometheus, or fetching Debian's (some 20 MB, once) ...")
        found = programs()
        folder = data_dir / "observability"
        with running(found, folder, every=_EVERY, extra=folder / "pages") as prometheus:
            write_page(folder / "pages", prometheus.pages)
            _say("\n".join(_where_to_look(prometheus)))
            _say(_GRAFANA.format(folder=folder))
            return _follow(prometheus, data_dir, stop)
    except (BpaError, Missing, NotStarted) as error:
        _say(f"error: {error}", sys.stderr)
        return 1


def _follow(prometheus: Prometheus, data_dir: Path, stop: threading.Event) -> int:
    """Scrape the server of the data directory, wherever it is, until stopped."""
    scraped: str | None = ""
    while not stop.wait(_LOOK_EVERY_S):
        if (code := prometheus.process.poll()) is not None:
            _say(f"error: Prometheus ended with {code}; see its log", sys.stderr)
            return 1
        addresses = read_addresses(data_dir)
        found = addresses.http if addresses else None
        if found != scraped:
            prometheus.scrape({"bpa-all": [urlsplit(found).netloc]} if found else {})
            _say(f"Scrapes {found}/metrics" if found else "No server here yet: run make serve")
            scraped = found
    return 0


def _where_to_look(prometheus: Prometheus) -> Iterator[str]:
    pages = prometheus.url + prometheus.pages
    yield f"Dashboards   {prometheus.url}/user/"
    yield f"Alerts       {pages}/alerts"
    yield f"Prometheus   {pages}/graph"


def _say(text: str, stream: TextIO | None = None) -> None:
    print(text, file=stream or sys.stdout, flush=True)


if __name__ == "__main__":
    sys.exit(main())
