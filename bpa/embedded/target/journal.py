"""What the target applied, on disk before it is answered.

One JSON line for each, appended and synced by a thread; whatever arrives while a sync runs goes
into the next one together (group commit). A torn last line, left by a kill, was never answered
and is cut off at the next start.
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from bpa.embedded.target.keys import Applied
from bpa.errors import StartupError

FILE_NAME = "received.jsonl"


class _Line(msgspec.Struct, frozen=True):
    key: str
    path: str
    body: str
    digest: str
    answer: dict[str, Any]
    at: str


class Journal:
    """An append-only file, held by one process at a time."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME
        self._descriptor = -1
        self._lock = asyncio.Lock()
        self._pending: list[bytes] = []
        self._given = 0
        self._synced = 0
        self._failure: OSError | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="target-journal")

    def open(self) -> list[Applied]:
        """Open the file, cut a torn last line off, and return what it holds.

        Raises:
            StartupError: The directory is not writable, another process holds the file, or a
                line that was once complete cannot be read.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            content = self._path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.ftruncate(self._descriptor, whole)
            self._sync_directory()
            return list(self._lines(content[:whole]))
        except BlockingIOError as error:
            self._close()
            raise StartupError(
                f"{self._path} is held by another process: stop it or choose another --data-dir"
            ) from error
        except OSError as error:
            self._close()
            raise self._unusable(error) from error
        except StartupError:
            self._close()
            raise

    async def append(self, applied: Applied) -> None:
        """Return when ``applied`` is on disk.

        Raises:
            OSError: Writing failed, now or earlier; nothing further is accepted.
        """
        self._pending.append(_encode(applied))
        self._given += 1
        mine = self._given
        async with self._lock:
            if self._synced < mine:
                await self._flush()

    async def clear(self) -> None:
        """Empty the file."""
        async with self._lock:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._thread, os.ftruncate, self._descriptor, 0)

    async def aclose(self) -> None:
        """Write what is pending and close the file."""
        async with self._lock:
            if self._pending:
                await self._flush()
        await asyncio.to_thread(self._thread.shutdown)
        self._close()

    async def _flush(self) -> None:
        if self._failure is not None:
            raise self._failure
        batch, self._pending = b"".join(self._pending), []
        upto = self._given
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, self._write, batch)
        except OSError as error:
            self._failure = error
            raise
        self._synced = upto

    def _write(self, batch: bytes) -> None:
        view = memoryview(batch)
        while view:
            view = view[os.write(self._descriptor, view) :]
        os.fdatasync(self._descriptor)

    def _lines(self, content: bytes) -> Iterator[Applied]:
        for number, line in enumerate(content.splitlines(), 1):
            try:
                yield _decode(line)
            except (msgspec.MsgspecError, ValueError) as error:
                raise StartupError(
                    f"{self._path} line {number} cannot be read: move the file away or restore it"
                ) from error

    def _unusable(self, error: OSError) -> StartupError:
        return StartupError(
            f"{self._path} cannot be used ({error.strerror}): choose another --data-dir"
        )

    def _sync_directory(self) -> None:
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _encode(applied: Applied) -> bytes:
    line = _Line(
        key=applied.key,
        path=applied.path,
        body=base64.b64encode(applied.body).decode(),
        digest=applied.digest,
        answer=applied.answer,
        at=applied.at,
    )
    return msgspec.json.encode(line) + b"\n"


def _decode(line: bytes) -> Applied:
    held = msgspec.json.decode(line, type=_Line)
    return Applied(
        key=held.key,
        path=held.path,
        body=base64.b64decode(held.body),
        digest=held.digest,
        answer=held.answer,
        at=held.at,
    )
