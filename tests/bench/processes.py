"""CPU time by process, exited children included."""

from __future__ import annotations

from collections import Counter

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
