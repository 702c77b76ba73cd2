"""Directories of the embedded servers: one holder each, short paths for sockets."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bpa.errors import StartupError

_SOCKETS = "bpa-"


@contextmanager
def held(directory: Path, lock_name: str = "lock") -> Iterator[Path]:
    """Make ``directory`` if need be and hold it until the block, or this process, ends.

    The lock is the kernel's (``flock``): a killed holder leaves nothing behind that could block.

    Raises:
        StartupError: It cannot be made or written, or another process holds it.
    """
    directory = directory.absolute()
    lock = directory / lock_name
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartupError(
            f"Cannot write to the data directory {directory}: {error.strerror}."
            " Choose another one or make it writable."
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StartupError(
                f"The data directory {directory} is in use by another process"
                f" ({_holder(descriptor)}). Stop it or choose another directory."
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()}".encode(), 0)
        yield directory
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, 64, 0).decode(errors="replace") or "pid unknown"


@contextmanager
def socket_directory(record: Path) -> Iterator[Path]:
    """Make a directory with a path short enough for a Unix socket (107 bytes), for us alone.

    Its path is kept in the file ``record``, so that the next start removes what a killed one left.
    """
    _remove_recorded(record)
    parent = os.environ.get("XDG_RUNTIME_DIR", "")
    usable = 0 < len(parent) < 60 and os.access(parent, os.W_OK | os.X_OK)
    path = Path(tempfile.mkdtemp(prefix=_SOCKETS, dir=parent if usable else "/tmp"))  # noqa: S108 - mkdtemp makes it private
    try:
        record.write_text(str(path), encoding="utf-8")
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        record.unlink(missing_ok=True)


def _remove_recorded(record: Path) -> None:
    try:
        path = Path(record.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    if path.name.startswith(_SOCKETS) and path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)


def let_in(directory: Path, uid: int) -> None:
    """Let another user pass through ``directory``, which is ours, on the way to what it owns.

    Raises:
        StartupError: A folder further up bars the way; those are not ours to change.
    """
    directory.chmod(directory.stat().st_mode | 0o011)
    for parent in directory.parents:
        status = parent.stat()
        if not status.st_mode & 0o001 and status.st_uid != uid:
            raise StartupError(
                f"The user {uid}, who has to run the server, cannot enter {parent}: choose a data"
                " directory outside of it, or start as an ordinary user."
            )


def processes_in(directory: Path) -> list[int]:
    """Return the ids of the processes whose working directory is ``directory``.

    Servers that change into their data directory are found this way even while they do not answer
    yet or any more, and whatever became of their pid files.
    """
    wanted = directory.resolve()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cwd").readlink() == wanted:
                    found.append(int(entry.name))
            except OSError:
                continue  # gone meanwhile, or another user's: neither is ours
    return found
