"""Debian's Prometheus: the installed one, else unpacked once into a folder, without root."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

FOLDER = Path(__file__).parents[1] / ".bpa" / "programs"
"""Where it is unpacked: beside the local data, ignored by git, removed by ``make clean``."""

_PACKAGE = "prometheus"
_PAGES = ("libjs-", "fonts-")
"""What Prometheus's pages are made of comes in packages of its own."""
_DEPENDS = ("depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts",
            "--no-breaks", "--no-replaces", "--no-enhances", _PACKAGE)  # fmt: skip
_WITHIN_S = 300


class Missing(Exception):
    """Prometheus is not here; the message says how to get it.

    Args:
        why: What was tried, and what to do.
        could_be_had: Whether there is a package manager that ought to have it.
    """

    def __init__(self, why: str, *, could_be_had: bool) -> None:
        super().__init__(why)
        self.could_be_had = could_be_had


@dataclass(frozen=True, slots=True)
class Programs:
    """Where the programs are."""

    prometheus: str
    promtool: str
    pages: str | None = None
    """The folder of its pages; None where they are installed."""


def programs(folder: Path = FOLDER) -> Programs:
    """Return the installed Prometheus, else the one in the folder, fetched if need be.

    Processes that ask at the same time wait for the one that fetches.

    Raises:
        Missing: It is not installed and cannot be fetched.
    """
    prometheus, promtool = shutil.which("prometheus"), shutil.which("promtool")
    if prometheus and promtool:
        return Programs(prometheus, promtool)
    unpacked = folder / _PACKAGE
    with _locked(folder):
        if not unpacked.exists():
            _fetch(folder, unpacked)
    usr = unpacked / "usr"
    pages = usr / "share" / "prometheus" / "web"
    return Programs(str(usr / "bin" / "prometheus"), str(usr / "bin" / "promtool"), str(pages))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(folder: Path, unpacked: Path) -> None:
    if not all(map(shutil.which, ("apt-get", "apt-cache", "dpkg"))):
        raise Missing(
            "prometheus and promtool are not on PATH, and there is no apt to get them with: "
            "install Prometheus 2.42 or newer",
            could_be_had=False,
        )
    try:
        with TemporaryDirectory(dir=folder) as work:
            for package in _downloaded(Path(work)):
                _run(("dpkg", "-x", str(package), f"{work}/{_PACKAGE}"))
            (Path(work) / _PACKAGE).rename(unpacked)
    except (subprocess.SubprocessError, OSError) as error:
        said = str(getattr(error, "stderr", None) or error).strip()
        raise Missing(
            f"cannot fetch Prometheus: {said}; try `apt install prometheus`", could_be_had=True
        ) from error


def _downloaded(work: Path) -> list[Path]:
    """Download with the system's lists; where they are not there or too old, with fresh ones."""
    private = work / "apt"
    lists = ("-o", f"Dir::State={private}/state", "-o", f"Dir::Cache={private}/cache",
             "-o", "Dir::State::status=/var/lib/dpkg/status")  # fmt: skip
    try:
        return _download(work, ())
    except subprocess.CalledProcessError:
        for needed in ("state/lists/partial", "cache/archives/partial"):
            (private / needed).mkdir(parents=True)
        _run(("apt-get", "-qq", *_unconfined(), *lists, "update"))
        return _download(work, lists)


def _download(work: Path, lists: Sequence[str]) -> list[Path]:
    needed = _run(("apt-cache", *lists, *_DEPENDS)).split()
    names = {_PACKAGE, *(name for name in needed if name.startswith(_PAGES))}
    _run(("apt-get", "-qq", *_unconfined(), *lists, "download", *sorted(names)), cwd=work)
    return sorted(work.glob("*.deb"))


def _unconfined() -> tuple[str, ...]:
    """Let apt write into the folder as the one who asks; as root it would become ``_apt``."""
    return ("-o", "APT::Sandbox::User=root") if os.geteuid() == 0 else ()


def _run(command: Sequence[str], cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=True, timeout=_WITHIN_S
    )
    return done.stdout
