"""Child servers that never outlive us, and that tell us why when they go first.

The kernel signals the child when its parent dies (``PR_SET_PDEATHSIG``, set by ``launch``). To the
kernel the parent is the *thread* that forked: start children from a thread that lives as long as
the process, which in practice means the event loop of the main thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NewType, Self

import msgspec

from bpa.errors import StartupError, Unavailable

Identity = NewType("Identity", str)
"""Who the child runs as, in the words of ``launch``."""

SAME = Identity("same")

_LAUNCHER = Path(__file__).with_name("launch.py")
_LOOK_EVERY_S = 0.01
_LOG_BYTES_MOST = 8 * 1024 * 1024
_LOG_BYTES_READ = 64 * 1024
_LAST_LINES = 20
_COMPLAINT = re.compile(r"\b(?:FATAL|PANIC|ERROR|[Ee]rror|StartupError)\b")
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "TMPDIR", "TZ", "PYTHONPATH", "SSL_CERT_FILE")


def namespace(uid: int, gid: int) -> Identity:
    """Run the child in a user namespace that shows it these ids, while its files stay ours."""
    return Identity(f"namespace:{uid}:{gid}")


def user(uid: int, gid: int) -> Identity:
    """Run the child as another user; needs privilege."""
    return Identity(f"user:{uid}:{gid}")


def bare_environment() -> dict[str, str]:
    """Return what a server needs of our environment; keys and connection strings stay behind."""
    return {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}


def packaged_binary(package: str, path: str) -> Path:
    """Find an executable that the distribution of ``package`` brings, without importing that.

    Raises:
        StartupError: It is not there, or may not be executed.
    """
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(folder) / path
        if os.access(binary, os.X_OK):
            return binary
    raise StartupError(
        f"The package {package} does not bring {path} for this platform: run 'make install' again."
    )


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child ended: ``code`` as in :mod:`subprocess`, a signal being negative."""

    name: str
    code: int
    last_lines: tuple[str, ...]

    def __str__(self) -> str:
        """Say it in one line, with the most telling that the child logged."""
        how = f"ended with exit code {self.code}"
        if self.code < 0:
            how = f"was killed by {signal.Signals(-self.code).name}"
        complaints = [line for line in self.last_lines if _COMPLAINT.search(line)]
        told = [*self.last_lines[-1:], *complaints[-1:]]
        return f"{self.name} {how}{f': {told[-1].strip()}' if told else ''}"


class ChildProcess:
    """One server of ours: started, waited for, watched, stopped.

    Output goes to ``log_path``, appended; a log over 8 MiB is set aside as ``.1`` before a start.
    The object belongs to no event loop: it may be started in one and stopped in another.

    Args:
        name: What messages call it.
        argv: The program's absolute path and its arguments.
        log_path: Where stdout and stderr go.
        environment: All that the child sees; :func:`bare_environment` unless given.
        identity: Who it runs as.
        death_signal: What the kernel sends it when we die; SIGKILL brooks no delay.
        stop_signal: What asks it to stop in good order.
        stop_timeout_s: How long it may take to do so before the whole process group is killed.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        log_path: Path,
        environment: Mapping[str, str] | None = None,
        identity: Identity = SAME,
        death_signal: signal.Signals = signal.SIGKILL,
        stop_signal: signal.Signals = signal.SIGTERM,
        stop_timeout_s: float = 10.0,
    ) -> None:
        self.name = name
        self.log_path = log_path
        self._argv = [str(argument) for argument in argv]
        self._environment = dict(bare_environment() if environment is None else environment)
        self._identity = identity
        self._death_signal = death_signal
        self._stop_signal = stop_signal
        self._stop_timeout_s = stop_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._stopping = False

    @property
    def pid(self) -> int:
        """The process id; also the id of the process group of its own."""
        return self._started().pid

    def start(self) -> None:
        """Start the program; returns before it is ready.

        Raises:
            StartupError: The log cannot be written, or the process cannot be made.
        """
        launcher = [sys.executable, "-I", "-S", str(_LAUNCHER)]
        how = [str(os.getpid()), str(int(self._death_signal)), self._identity]
        try:
            with self._open_log() as log:
                self._log_start = log.seek(0, os.SEEK_END)
                self._process = subprocess.Popen(
                    [*launcher, *how, *self._argv],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    start_new_session=True,  # a terminal's Ctrl-C is ours to pass on
                )
        except OSError as error:
            raise StartupError(f"Cannot start {self.name}: {error}") from error
        self._stopping = False

    async def wait_for_line(self, wanted: Callable[[str], bool], *, timeout_s: float) -> str:
        """Return the first whole line of this start's output that ``wanted`` accepts.

        Raises:
            StartupError: The child ended, or the time was over, before there was one.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            ended = self._started().poll()  # before reading: what it said last is then in the log
            for line in self._lines():
                if wanted(line):
                    return line
            if ended is not None:
                raise StartupError(f"{self._exit(ended)} (see {self.log_path})")
            if asyncio.get_running_loop().time() > deadline:
                raise StartupError(
                    f"{self.name} was not ready within {timeout_s:g} s; see {self.log_path}."
                )
            await asyncio.sleep(_LOOK_EVERY_S)

    async def wait(self) -> Exit:
        """Wait for the process to end, for whatever reason."""
        process = self._started()
        if process.poll() is None:
            await _readable_pidfd(process.pid)
        return self._exit(process.wait())

    async def died(self) -> Exit:
        """Wait for the process to end by itself; when :meth:`stop` ends it, that does not count.

        Then this never returns: cancel it, as a task group does.
        """
        ended = await self.wait()
        if self._stopping:
            await asyncio.get_running_loop().create_future()
        return ended

    async def watch(self) -> None:
        """Take the task group down when the process dies by itself, with the reason.

        Raises:
            Unavailable: It died; the message has its exit code and its last line.
        """
        raise Unavailable(f"{await self.died()} (see {self.log_path})")

    async def stop(self) -> None:
        """Ask it to stop, wait, and kill what is left of its process group; may be repeated."""
        self._stopping = True
        process = self._process
        if process is None or process.poll() is not None:
            return
        try:
            process.send_signal(self._stop_signal)
            async with asyncio.timeout(self._stop_timeout_s):
                await self.wait()
        except TimeoutError:
            pass  # it had its time; the kill below is the answer
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process

    def _open_log(self) -> Any:
        if self.log_path.exists() and self.log_path.stat().st_size > _LOG_BYTES_MOST:
            self.log_path.replace(self.log_path.with_name(self.log_path.name + ".1"))
        return open(self.log_path, "ab", opener=lambda path, flags: os.open(path, flags, 0o600))

    def _lines(self) -> list[str]:
        """Return the whole lines of this start, the last 64 KiB of them."""
        with self.log_path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - _LOG_BYTES_READ))
            text = log.read().decode(errors="replace")
        return text[: text.rfind("\n") + 1].splitlines()

    def _exit(self, code: int) -> Exit:
        return Exit(self.name, code, tuple(self._lines()[-_LAST_LINES:]))


async def spawn_service(
    argv: Sequence[str | Path],
    *,
    name: str,
    log_path: Path,
    environment: Mapping[str, str] | None = None,
    ready_timeout_s: float = 15.0,
) -> tuple[ChildProcess, dict[str, Any]]:
    """Start a server of our own and return it with the ready line that it wrote.

    The line is one JSON object with ``"event": "ready"`` and whatever its callers need to know, as
    the addresses it listens on. The caller stops the process.

    Raises:
        StartupError: It ended, or wrote no such line in time; it is stopped then.
    """
    child = ChildProcess(name, argv, log_path=log_path, environment=environment)
    child.start()
    try:
        line = await child.wait_for_line(
            lambda line: _ready(line) is not None, timeout_s=ready_timeout_s
        )
    except BaseException:
        await child.stop()
        raise
    return child, _ready(line) or {}


def _ready(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    with contextlib.suppress(msgspec.DecodeError):
        record = msgspec.json.decode(line, type=dict[str, Any])
        if record.get("event") == "ready":
            return record
    return None


async def _readable_pidfd(pid: int) -> None:
    """Wait until the process ``pid`` has ended, child of ours or not."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    descriptor = os.pidfd_open(pid)
    try:
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
    finally:
        os.close(descriptor)


async def end_strangers(pids: Sequence[int], how: signal.Signals, *, within_s: float) -> None:
    """Ask processes of an earlier start to end, and kill those that have not ``within_s``."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)
    for last in (False, True):
        try:
            async with asyncio.timeout(within_s):
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        await _readable_pidfd(pid)
                return
        except TimeoutError:
            if last:
                raise
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
