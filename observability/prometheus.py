"""A Prometheus of one's own: the shipped configuration and rules, on a free port."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

from observability.programs import Programs

CONFIG = Path(__file__).parents[1] / "config"
_SHIPPED_EVERY = "15s"
_RETENTION = "35d"
"""More than the 30 days of which the availability is computed."""
_LISTENS = re.compile(r'msg="Listening on".* address=(\S+)')
_STARTED_WITHIN_S = 20.0
_STOPPED_WITHIN_S = 10.0


class NotStarted(Exception):
    """Prometheus did not start; the message has its last words."""


class Prometheus:
    """A Prometheus that runs.

    Args:
        url: Where it answers.
        pages: Under which path it shows graphs, alerts and targets.
        process: Itself.
        targets: The file it reads its targets from.
    """

    def __init__(
        self, url: str, pages: str, process: subprocess.Popen[bytes], targets: Path
    ) -> None:
        self.url = url
        self.pages = pages
        self.process = process
        self._targets = targets

    def scrape(self, targets: Mapping[str, Sequence[str]]) -> None:
        """Scrape these ``host:port``, by the name of their job, and no others any more."""
        entries = [{"targets": list(at), "labels": {"job": job}} for job, at in targets.items()]
        fresh = self._targets.with_suffix(".new")
        fresh.write_text(json.dumps(entries), "utf-8")
        fresh.replace(self._targets)


@contextmanager
def running(
    programs: Programs, folder: Path, *, every: str = _SHIPPED_EVERY, extra: Path | None = None
) -> Iterator[Prometheus]:
    """Run Prometheus for as long as the context is open.

    Args:
        programs: Where it is.
        folder: Gets a copy of its configuration, its data and its log; what is there, it goes on
            with.
        every: How often it scrapes, judges the rules and looks for other targets.
        extra: A folder of pages to serve under ``/user/``.

    Raises:
        NotStarted: It did not start.
    """
    config = _configured(folder, every)
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                programs.prometheus,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--storage.tsdb.retention.time={_RETENTION}",
                "--web.listen-address=127.0.0.1:0",
                *([f"--web.local-assets={programs.pages}"] if programs.pages else []),
                *([f"--web.user-assets={extra}"] if extra else []),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        url = f"http://{_listening(process, folder / 'prometheus.log')}"
        yield Prometheus(url, _pages(url), process, config.parent / "targets" / "bpa.json")
    finally:
        _end(process)


def _configured(folder: Path, every: str) -> Path:
    """Copy the shipped files, which name each other by where they are."""
    collector = folder / "config" / "collector"
    (collector / "targets").mkdir(parents=True, exist_ok=True)
    shutil.copytree(CONFIG / "alerts", folder / "config" / "alerts", dirs_exist_ok=True)
    text = (CONFIG / "collector" / "prometheus.yaml").read_text("utf-8")
    config = collector / "prometheus.yaml"
    config.write_text(text.replace(_SHIPPED_EVERY, every), "utf-8")
    return config


def _listening(process: subprocess.Popen[bytes], log: Path) -> str:
    until_s = time.monotonic() + _STARTED_WITHIN_S
    while time.monotonic() < until_s and process.poll() is None:
        said = log.read_text("utf-8", "replace")
        if (found := _LISTENS.search(said)) and "ready to receive web requests" in said:
            return found[1]
        time.sleep(0.05)
    raise NotStarted(f"Prometheus did not start; its last words: {log.read_text('utf-8')[-1500:]}")


def _pages(url: str) -> str:
    """Debian has the pages of old, which are under a path of their own."""
    with urlopen(url, timeout=_STARTED_WITHIN_S) as response:  # noqa: S310 - our own Prometheus
        path: str = urlsplit(response.url).path
    return "/classic" if path.startswith("/classic/") else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOPPED_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
