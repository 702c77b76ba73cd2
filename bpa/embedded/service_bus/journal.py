"""Where a broker's changes are kept: nowhere, or in an append-only file with group commit.

Everything appended in one round of the event loop is written and synced together, by a thread of
its own, while the loop goes on; what the next rounds append meanwhile forms the next group. Only
then are the callbacks of the group run, in the loop and in order. When the file has grown well
past what it still says, a snapshot starts a new one; the rename makes it the journal. The loop
takes the snapshot, which is quick, and the thread encodes it, in turns with the loop.

A record that nobody waits for (a lock) is written but not synced, by the loop itself when the
thread rests: that takes microseconds, waking the thread many times that. It survives the death of
this process, though not that of the machine.
"""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

import structlog

from bpa.errors import StartupError

from . import records
from .log_events import CALLBACK_FAILED, JOURNAL_FAILED, JOURNAL_TORN

_log = structlog.get_logger(__name__)
_FILE = "journal.log"
_MAGIC = b"BPASBQ01"
_COMPACT_BYTES = 64 * 1024 * 1024
_RECORDS_AT_ONCE = 128
"""Of a snapshot, in one write: each lets the loop have the interpreter."""

Callback = Callable[[], None]
Bytes = bytes | mmap.mmap


class MemoryJournal:
    """Keeps nothing; its callbacks run at the end of the event loop's round."""

    size_bytes = 0
    """How large the file is."""

    def __init__(self) -> None:
        self.on_synced: Callable[[float], None] = _ignore
        self._callbacks: list[Callback] = []

    def append(self, record: bytes) -> None:
        """Forget the record."""

    def when_durable(self, callback: Callback) -> None:
        """Call back at the end of this round."""
        if not self._callbacks:
            asyncio.get_running_loop().call_soon(self._run)
        self._callbacks.append(callback)

    def _run(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        _run_all(callbacks)

    async def aclose(self) -> None:
        """Run what is left."""
        self._run()


class FileJournal:
    """Keeps records in ``<directory>/journal.log``.

    Args:
        directory: Created if it is not there; one emulator at a time holds it.
        on_failure: Called once in the loop when the file can no longer be written. Nothing is
            acknowledged from then on.

    Raises:
        StartupError: The directory cannot be used, is in use, or holds something else.
    """

    def __init__(self, directory: Path, on_failure: Callable[[OSError], None]) -> None:
        self.on_synced: Callable[[float], None] = _ignore
        """Called in the thread with how long a sync took, in seconds."""
        self._path = directory / _FILE
        self._on_failure = on_failure
        self._directory_fd = _lock_directory(directory)
        self._records: list[bytes] = []
        self._callbacks: list[Callback] = []
        self._in_flight: list[Callback] | None = None
        self._failed = False
        self._snapshot: Callable[[], Iterable[bytes]] | None = None
        self._bytes_since_snapshot = 0
        self._snapshot_bytes = 0
        self._scheduled = False
        self._fd = -1
        self._thread: Thread | None = None
        self._drained: asyncio.Future[None] | None = None
        self._work: SimpleQueue[_Group | None] = SimpleQueue()

    @property
    def size_bytes(self) -> int:
        """How large the file is."""
        return len(_MAGIC) + self._snapshot_bytes + self._bytes_since_snapshot

    def read(self) -> records.Replay:
        """Return what the journal says, and cut off a torn end. Call before ``start``.

        Raises:
            StartupError: The file cannot be read, or is no journal.
        """
        replay = records.Replay()
        try:
            with _mapped(self._path) as data:
                self._fold(data, replay)
        except OSError as error:
            raise StartupError(f"{self._path}: cannot be read: {error.strerror}") from error
        return replay

    def _fold(self, data: Bytes, replay: records.Replay) -> None:
        if data[: len(_MAGIC)] != _MAGIC[: len(data)]:
            raise StartupError(f"{self._path}: is not a journal of this emulator; move it away")
        good = len(_MAGIC)
        try:
            for body, good in records.bodies(data, len(_MAGIC)):  # noqa: B007 - used behind it
                replay.apply(body)
        except (ValueError, KeyError, LookupError) as error:
            raise StartupError(f"{self._path}: a record contradicts those before it") from error
        if good < len(data):
            _log.warning(JOURNAL_TORN, path=str(self._path), lost_bytes=len(data) - good)

    def start(self, snapshot: Callable[[], Iterable[bytes]]) -> None:
        """Begin to write, with a fresh file that holds only the snapshot.

        Args:
            snapshot: Returns records that rebuild the state of when it is called; the thread
                goes through them.
        """
        self._loop = asyncio.get_running_loop()
        self._snapshot = snapshot
        self._thread = Thread(target=self._write, name="service-bus-journal", daemon=True)
        self._thread.start()
        self._hand_over(compact=True)

    def append(self, record: bytes) -> None:
        """Write a record with this round's group."""
        self._records.append(record)
        self._schedule()

    def when_durable(self, callback: Callback) -> None:
        """Call back when everything appended so far is synced."""
        self._callbacks.append(callback)
        self._schedule()

    async def aclose(self) -> None:
        """Write and sync what is left, and stop the thread."""
        if self._thread is not None:
            if not self._failed:
                self._drained = self._loop.create_future()
                self.when_durable(partial(self._drained.set_result, None))
                await self._drained
            self._work.put(None)
            await asyncio.to_thread(self._thread.join)
            if self._fd >= 0:
                os.close(self._fd)
        os.close(self._directory_fd)

    def _schedule(self) -> None:
        if not self._scheduled and self._in_flight is None and self._snapshot is not None:
            self._scheduled = True
            self._loop.call_soon(self._end_of_round)

    def _end_of_round(self) -> None:
        self._scheduled = False
        if self._in_flight is not None or self._failed:
            return
        if not self._callbacks:
            self._write_here()
            return
        grown = self._bytes_since_snapshot > max(_COMPACT_BYTES, 2 * self._snapshot_bytes)
        self._hand_over(compact=grown)

    def _write_here(self) -> None:
        data = b"".join(self._records)
        self._records = []
        self._bytes_since_snapshot += len(data)
        try:
            _write_all(self._fd, data)
        except OSError as error:
            self._fail(error)

    def _hand_over(self, *, compact: bool) -> None:
        assert self._snapshot is not None
        written, self._records = self._records, []
        self._in_flight, self._callbacks = self._callbacks, []
        if compact:
            self._work.put(_Group(self._snapshot(), replaces=True))
        else:
            self._bytes_since_snapshot += sum(map(len, written))
            self._work.put(_Group(written, replaces=False))

    def _written(self) -> None:
        callbacks, self._in_flight = self._in_flight, None
        _run_all(callbacks or [])
        if self._records or self._callbacks:
            self._schedule()

    def _fail(self, error: OSError) -> None:
        if not self._failed:
            self._failed = True
            if self._drained is not None and not self._drained.done():
                self._drained.set_result(None)
            _log.error(JOURNAL_FAILED, path=str(self._path), reason=error.strerror)
            self._on_failure(error)

    # The thread; file and sizes are its own while a group is in flight

    def _write(self) -> None:
        try:
            while self._write_group(self._work.get()):
                self._loop.call_soon_threadsafe(self._written)
        except OSError as error:
            self._loop.call_soon_threadsafe(self._fail, error)

    def _write_group(self, group: _Group | None) -> bool:
        """Write and sync a group; it must not outlive the call, as a snapshot is large."""
        if group is None:
            return False
        if group.replaces:
            self._replace(group.records)
            return True
        _write_all(self._fd, b"".join(group.records))
        began_s = time.perf_counter()
        os.fdatasync(self._fd)
        self.on_synced(time.perf_counter() - began_s)
        return True

    def _replace(self, snapshot: Iterable[bytes]) -> None:
        fresh = self._path.with_suffix(".new")
        fd = os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        old, self._fd = self._fd, fd
        if old >= 0:
            os.close(old)
        _write_all(fd, _MAGIC)
        rest, size = iter(snapshot), 0
        while piece := b"".join(islice(rest, _RECORDS_AT_ONCE)):
            _write_all(fd, piece)
            size += len(piece)
        os.fsync(fd)
        fresh.replace(self._path)
        os.fsync(self._directory_fd)
        self._snapshot_bytes, self._bytes_since_snapshot = size, 0


@dataclass(frozen=True, slots=True)
class _Group:
    records: Iterable[bytes]
    replaces: bool
    """Whether this is a snapshot, which starts a new file."""


def _ignore(_seconds: float) -> None:
    pass


def _run_all(callbacks: list[Callback]) -> None:
    for callback in callbacks:
        try:
            callback()
        except Exception:  # noqa: BLE001 - logged; the others are still owed theirs
            _log.exception(CALLBACK_FAILED)


@contextmanager
def _mapped(path: Path) -> Iterator[Bytes]:
    """Give a file's bytes without reading it into memory; none if there is no file."""
    if not path.exists() or path.stat().st_size == 0:
        yield b""
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _lock_directory(directory: Path) -> int:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StartupError(f"{directory}: cannot hold data: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise StartupError(f"{directory}: another Service Bus emulator uses it") from error
    return fd
