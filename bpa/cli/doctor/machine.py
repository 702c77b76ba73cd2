"""This host and this installation: Python, packages, ports, disk, sandbox."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from bpa import __version__
from bpa.cli.doctor.findings import Finding, Subject, failed, ok, warning
from bpa.domain import sandboxes
from bpa.domain.quantities import memory_bytes
from bpa.errors import BpaError
from bpa.node.sandbox import SandboxLimits
from bpa.node.zygote import Zygote

_PYTHON = (3, 11)
_DISK_BYTES = 1 << 30
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*(.*?)\s*(?:;\s*(.*))?$")
_BOUND = re.compile(r"(==|>=|<)\s*([0-9][0-9a-zA-Z.]*)")
_PORTS = {
    "control": ("control.http_port", "control.grpc_port"),
    "node": ("node.health_port",),
    "embedded": (
        "embedded.service_bus_port",
        "embedded.service_bus_admin_port",
        "embedded.anthropic_port",
        "embedded.target_port",
    ),
}


async def python(_: Subject) -> list[Finding]:
    """Look at the interpreter and at the packages that bpa asks for."""
    found = f"bpa {__version__} on Python {platform.python_version()}, {platform.machine()}"
    if sys.version_info < _PYTHON:
        return [failed("python", found, "Python 3.11 or newer is needed: make install again")]
    wrong = list(_wrong_packages())
    if wrong:
        return [failed("python", f"{found}; {'; '.join(wrong)}", "install again: make install")]
    return [ok("python", f"{found}; {len(metadata.requires('bpa') or [])} packages as asked for")]


def _wrong_packages() -> Iterator[str]:
    for line in metadata.requires("bpa") or []:
        match = _REQUIREMENT.match(line)
        if match is None or match[3]:
            continue  # of an extra, or of another platform
        name, bounds = match[1], match[2]
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield f"{name} is not installed"
            continue
        if not all(_holds(version, kind, bound) for kind, bound in _BOUND.findall(bounds)):
            yield f"{name} is {version}, and {bounds} is asked for"


def _holds(version: str, kind: str, bound: str) -> bool:
    if kind == "==":
        return version == bound
    return (_numbers(version) >= _numbers(bound)) is (kind == ">=")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


async def data_dir(subject: Subject) -> list[Finding]:
    """Look whether the embedded servers can keep their data, and for how long."""
    if not subject.embeds:
        return []
    path = subject.data_dir.absolute()
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return [failed("data dir", f"{there} cannot be written to", "set data_dir")]
    free = shutil.disk_usage(there).free
    found = f"{path}, {free / 2**30:.1f} GiB free"
    if free < _DISK_BYTES:
        return [warning("data dir", found, "make room, or set data_dir: Postgres stops when full")]
    return [ok("data dir", found)]


async def ports(subject: Subject) -> list[Finding]:
    """Look whether the ports that are to be listened on are free."""
    if subject.running is not None:
        return [ok("ports", "in use by the server that runs here")]
    settings, taken = subject.settings, []
    groups = [*(["control"] if subject.is_control else []), *(["node"] if subject.is_node else [])]
    groups += ["embedded"] if subject.embeds else []
    keys = [key for group in groups for key in _PORTS[group] if not _is_named(subject, key)]
    for key in keys:
        section, name = key.split(".")
        port = getattr(getattr(settings, section), name)
        host = settings.embedded.host if section == "embedded" else settings.control.host
        why = _cannot_listen(host, port)
        if why:
            to_do = f"end what listens there, or set {key} (0 takes any free port)"
            taken.append(failed("ports", f"{host}:{port} for {key}: {why}", to_do))
    return taken or [ok("ports", f"{len(keys)} to listen on, all free")]


def _is_named(subject: Subject, key: str) -> bool:
    """Say if a real server takes the place of the embedded one that would listen there."""
    settings = subject.settings
    return bool(
        (key.startswith("embedded.service_bus") and settings.service_bus.connection_string)
        or (key == "embedded.anthropic_port" and settings.anthropic.api_key)
        or (key == "embedded.target_port" and settings.http_out.base_url)
    )


def _cannot_listen(host: str, port: int) -> str:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(1)
    except OSError as error:
        return error.strerror or str(error)
    return ""


async def sandbox(subject: Subject) -> list[Finding]:
    """Start what forks sandboxes, and confine one child."""
    if not subject.is_node:
        return []
    node = subject.settings.node
    try:
        each = memory_bytes(node.memory)
        async with Zygote(limits=SandboxLimits(memory_bytes=each)) as zygote:
            held = zygote.protections
    except (BpaError, ValueError) as error:
        return [failed("sandbox", str(error), "run on Linux 5.9 or newer; see node.memory")]
    lacks = "; ".join(sandboxes.not_in_force(sandboxes.missing_from(held)))
    level = sandboxes.level_of(held)
    found = f"level {level}, {node.memory} each" + (f"; {lacks}" if lacks else "")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if node.slots * each > total:
        need, have = node.slots * each / 2**30, total / 2**30
        return [
            warning(
                "sandbox",
                f"{found}; {node.slots} slots may take {need:.1f} GiB of {have:.1f}",
                "lower node.slots or node.memory",
            )
        ]
    return [ok("sandbox", found)]


async def config(subject: Subject) -> list[Finding]:
    """Look at the price list."""
    from bpa.manifests import shipped_config  # noqa: PLC0415 - beside what reads it
    from bpa.node.pricing import Prices  # noqa: PLC0415 - see above

    path = shipped_config(subject.settings.config_dir) / "prices.toml"
    try:
        text = await asyncio.to_thread(Path.read_text, path, "utf-8")
        Prices.parse(text, str(path))
    except (OSError, UnicodeDecodeError, BpaError) as error:
        return [failed("prices", f"{path}: {error}", "mend it, or set config_dir")]
    return [ok("prices", str(path))]
