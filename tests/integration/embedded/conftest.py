"""Programs that hold embedded servers, as us and as another, and ways to watch them; a clock."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

import bpa
from tests.integration.embedded.service_bus import Clock

ROOT = Path(bpa.__file__).parent.parent
PACKAGES = Path(psutil.__file__).parent.parent
NOBODY = 65534


@dataclass(slots=True)
class Holder:
    """A running program that holds servers; ``ready`` is what it said when they were up."""

    process: asyncio.subprocess.Process
    ready: dict[str, Any]

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


Hold = Callable[..., Awaitable[Holder]]


@pytest.fixture
async def hold() -> AsyncIterator[Hold]:
    """Start a program that holds the named servers: ``await hold(data_dir, "postgres")``."""
    holders: list[asyncio.subprocess.Process] = []
    servers: list[psutil.Process] = []

    async def start(data_dir: Path, *kinds: str, as_nobody: bool = False) -> Holder:
        process = await start_holder(data_dir, *kinds, as_nobody=as_nobody)
        holders.append(process)
        assert process.stdout is not None
        assert process.stderr is not None
        async with asyncio.timeout(30):
            line = await process.stdout.readline()
        if not line:
            raise AssertionError((await process.stderr.read()).decode())
        ready = json.loads(line)
        servers.extend(psutil.Process(ready[key]) for key in ready if key.endswith("_pid"))
        return Holder(process, ready)

    yield start
    for process in holders:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(15):
                    await process.wait()
            except TimeoutError:
                process.kill()
        await process.communicate()
    for server in servers:  # all gone already, unless the test has failed
        with contextlib.suppress(psutil.NoSuchProcess):
            server.kill()


async def start_holder(
    data_dir: Path, *kinds: str, as_nobody: bool = False
) -> asyncio.subprocess.Process:
    python, identity = (sys.executable, {})
    if as_nobody:
        python = interpreter_of_nobody()
        identity = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    return await asyncio.create_subprocess_exec(
        python,
        "-m",
        "tests.integration.embedded.holder",
        str(data_dir),
        *kinds,
        cwd=ROOT,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **identity,
    )


def _environment() -> dict[str, str]:
    path = os.environ.get("PATH", "")
    return {"PATH": path, "PYTHONPATH": f"{ROOT}:{PACKAGES}", "PYTHONDONTWRITEBYTECODE": "1"}


def interpreter_of_nobody() -> str:
    """Find an interpreter of our version that ``nobody`` may run and that finds our packages."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    candidates = [sys.executable, shutil.which(name, path="/usr/local/bin:/usr/bin:/bin")]
    for candidate in filter(None, candidates):
        try:
            subprocess.run(
                [candidate, "-c", "import psycopg, structlog, bpa"],
                user=NOBODY,
                group=NOBODY,
                extra_groups=[],
                env=_environment(),
                cwd=ROOT,
                check=True,
                capture_output=True,
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return candidate
    pytest.skip("no interpreter with our packages is open to the user nobody")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of every Service Bus emulator of the test."""
    return Clock(monkeypatch)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory whose parents every user may enter, which pytest's own are not."""
    path = Path(tempfile.mkdtemp(prefix="bpa-test-", dir="/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture(params=["ourselves", "nobody"])
def account(request: pytest.FixtureRequest, open_directory: Path) -> tuple[Path, bool]:
    """A data directory and whether ``nobody`` uses it: both when we are root, else ourselves."""
    as_nobody = request.param == "nobody"
    if as_nobody and os.geteuid() != 0:
        pytest.skip("only root can become nobody; running as an ordinary user already")
    home = open_directory / "home"
    home.mkdir(mode=0o700)
    if as_nobody:
        os.chown(home, NOBODY, NOBODY)
    return home / "data", as_nobody


def mode_of(path: Path) -> int | None:
    """Return the permission bits, or nothing where nothing is."""
    return path.stat().st_mode & 0o777 if path.exists() else None


def owner_of(path: Path) -> int:
    return path.stat().st_uid


def user_namespace_of(pid: int | str) -> str:
    return os.readlink(f"/proc/{pid}/ns/user")


def alive(pid: int) -> bool:
    """Say whether the process runs; one that has ended and is not yet reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def servers_of(data_dir: Path) -> list[psutil.Process]:
    """Return all processes that work in the data directory or name it on their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [process.cwd(), *process.cmdline()]
        except psutil.Error:
            continue
        names_it = any(str(data_dir) in word for word in words)
        if names_it and "tests.integration.embedded.holder" not in words:
            found.append(process)
    return found
