"""CPU time by process, exited children included."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import psutil

GROUPS = {
    "bpa.embedded.service_bus": "emulator",
    "bpa.embedded.anthropic": "model stub",
    "bpa.embedded.target": "target",
    "zygote_main": "sandboxes",
    "valkey-server": "valkey",
    "postgres": "postgres",
    "serve": "control + node",
}


def cpu_s(root: int) -> Counter[str]:
    """Return CPU seconds so far of each group of processes below (and including) ``root``.

    A process's reaped children count with it: sandboxes with the zygote that forked them.
    """
    found: Counter[str] = Counter()
    parent = psutil.Process(root)
    for process in [parent, *parent.children(recursive=True)]:
        try:
            times, group = process.cpu_times(), _group(process)
        except psutil.NoSuchProcess:
            continue
        own = times.user + times.system
        reaped = times.children_user + times.children_system
        found[group] += own + (reaped if group in ("sandboxes", "postgres") else 0.0)
    return found


class Meter:
    """Tells how long a server has been on a CPU so far, to the microsecond.

    Waiting for a CPU that a neighbour has is not in it: on a machine that does nothing else, a
    request takes about as long as this, with what it waits for the disk.

    Args:
        root: The server's process.
        groups: Which of its processes count.
    """

    def __init__(self, root: int, groups: Collection[str]) -> None:
        parent = psutil.Process(root)
        tree = [parent, *parent.children(recursive=True)]
        self._folders = [Path(f"/proc/{one.pid}/task") for one in tree if _group(one) in groups]

    def ms(self) -> float:
        """Return milliseconds; of what has ended meanwhile, nothing."""
        total_ns = 0
        for folder in self._folders:
            for path in folder.glob("*/schedstat"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    total_ns += int(path.read_text("ascii").split()[0])
        return total_ns / 1_000_000


def rss_mib(root: int) -> float:
    """Return the resident memory of the whole tree, MiB; shared pages count once a process."""
    parent = psutil.Process(root)
    tree = [parent, *parent.children(recursive=True)]
    return sum(process.memory_info().rss for process in tree if process.is_running()) / 2**20


def _group(process: psutil.Process) -> str:
    for ancestor in [process, *process.parents()]:
        words = " ".join(ancestor.cmdline())
        for mark, group in GROUPS.items():
            if mark in words:
                return group
    return "other"
