"""The embedded Postgres: it starts, it dies with us, it is taken over, it refuses in one line."""

import asyncio
import os
import signal
from pathlib import Path

import psycopg
import pytest

from bpa.embedded import postgres as module
from bpa.embedded.postgres import EmbeddedPostgres
from bpa.embedded.processes import ChildProcess, Exit, namespace, user
from bpa.errors import StartupError, Unavailable
from tests.eventually import eventually
from tests.integration.embedded.conftest import (
    NOBODY,
    Hold,
    alive,
    mode_of,
    owner_of,
    servers_of,
    start_holder,
    user_namespace_of,
)

FAST = {"fsync": "off"}
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take other identities")


async def _execute(dsn: str, statement: str) -> object:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        cursor = await connection.execute(statement.encode())
        row = await cursor.fetchone() if cursor.description else None
        return row and row[0]


async def test_its_settings_are_those_of_a_durable_server_without_a_port(
    old_data_dir: Path,
) -> None:
    async with EmbeddedPostgres(old_data_dir) as postgres:
        wanted = {"fsync": "on", "synchronous_commit": "on", "jit": "off", "listen_addresses": ""}
        for name, value in wanted.items():
            assert await _execute(postgres.dsn, f"SHOW {name}") == value
        assert await _execute(postgres.dsn, "SELECT current_database()") == "bpa"
        assert await _execute(postgres.dsn, "SHOW server_encoding") == "UTF8"
        assert str(await _execute(postgres.dsn, "SHOW server_version")).startswith("18")
        sockets = Path(str(await _execute(postgres.dsn, "SHOW unix_socket_directories")))
        assert mode_of(sockets) == 0o700
    assert mode_of(sockets) is None
    assert not servers_of(old_data_dir)


async def test_data_survives_a_stop_and_a_start(old_data_dir: Path) -> None:
    async with EmbeddedPostgres(old_data_dir, settings=FAST) as postgres:
        await _execute(postgres.dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    async with EmbeddedPostgres(old_data_dir, settings=FAST) as postgres:
        assert await _execute(postgres.dsn, "SELECT answer FROM kept") == 42


async def test_after_a_kill_9_of_its_owner_no_server_survives_and_nothing_is_lost(
    account: tuple[Path, bool], hold: Hold
) -> None:
    data_dir, as_nobody = account
    holder = await hold(data_dir, "postgres", as_nobody=as_nobody)
    await _execute(holder.ready["dsn"], "CREATE TABLE kept AS SELECT 42 AS answer")
    before = servers_of(data_dir)
    assert holder.ready["postgres_pid"] in [process.pid for process in before]
    assert len(before) > 1, "the postmaster's own children should be seen too"
    if as_nobody:
        assert {process.uids().real for process in before} == {NOBODY}

    await holder.kill()
    await eventually(lambda: not servers_of(data_dir), within_s=2)

    holder = await hold(data_dir, "postgres", as_nobody=as_nobody)
    assert await _execute(holder.ready["dsn"], "SELECT answer FROM kept") == 42


async def test_a_kill_9_in_the_middle_of_initdb_does_not_block_the_next_start(
    data_dir: Path, hold: Hold
) -> None:
    process = await start_holder(data_dir, "postgres")
    await eventually(lambda: (data_dir / "postgres.new" / "base").exists(), every_s=0.002)
    assert not (data_dir / "postgres").exists()
    process.kill()
    await process.communicate()
    await eventually(lambda: not servers_of(data_dir), within_s=2)
    assert (data_dir / "postgres.new").exists()

    holder = await hold(data_dir, "postgres")
    assert await _execute(holder.ready["dsn"], "SELECT 1") == 1
    assert not (data_dir / "postgres.new").exists()


async def _orphan(data_dir: Path, sockets: Path) -> ChildProcess:
    """Run a server over the data directory that has nothing to do with ``EmbeddedPostgres``."""
    os.mkdir(sockets)
    owner = EmbeddedPostgres(data_dir, settings=FAST)
    orphan = owner._server(await owner._choose_identity(), sockets)
    orphan.start()
    await orphan.wait_for_line(lambda line: module._READY in line, timeout_s=30)
    return orphan


async def test_a_server_that_outlived_its_owner_is_taken_over(
    old_data_dir: Path, open_directory: Path
) -> None:
    async with EmbeddedPostgres(old_data_dir, settings=FAST) as first:
        await _execute(first.dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    orphan = await _orphan(old_data_dir, open_directory / "s")
    async with EmbeddedPostgres(old_data_dir, settings=FAST) as second:
        assert not alive(orphan.pid)
        assert second.process.pid != orphan.pid
        assert await _execute(second.dsn, "SELECT answer FROM kept") == 42
    assert (await orphan.wait()).code == 0


async def test_a_frozen_server_that_outlived_its_owner_is_taken_over(
    old_data_dir: Path, open_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with EmbeddedPostgres(old_data_dir, settings=FAST):
        pass
    orphan = await _orphan(old_data_dir, open_directory / "s")
    os.kill(orphan.pid, signal.SIGSTOP)
    monkeypatch.setattr(module, "_TAKE_OVER_TIMEOUT_S", 0.5)
    async with EmbeddedPostgres(old_data_dir, settings=FAST) as second:
        assert await _execute(second.dsn, "SELECT 1") == 1
    assert (await orphan.wait()).code == -signal.SIGKILL


async def test_a_leftover_pid_file_whose_number_has_gone_to_another_process_does_not_block(
    old_data_dir: Path,
) -> None:
    async with EmbeddedPostgres(old_data_dir, settings=FAST):
        content = (old_data_dir / "postgres" / "postmaster.pid").read_text().splitlines()
    content[0] = str(os.getppid())
    (old_data_dir / "postgres" / "postmaster.pid").write_text("\n".join(content) + "\n")
    async with EmbeddedPostgres(old_data_dir, settings=FAST) as postgres:
        assert await _execute(postgres.dsn, "SELECT 1") == 1


async def test_the_second_on_one_data_directory_is_refused_in_one_line(
    old_data_dir: Path, hold: Hold
) -> None:
    holder = await hold(old_data_dir, "postgres")
    with pytest.raises(StartupError, match="in use by another process") as caught:
        await EmbeddedPostgres(old_data_dir).__aenter__()
    assert f"pid {holder.process.pid}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert await _execute(holder.ready["dsn"], "SELECT 1") == 1


async def test_a_directory_that_cannot_be_written_is_refused_in_one_line(
    account: tuple[Path, bool], hold: Hold
) -> None:
    data_dir, as_nobody = account
    data_dir.parent.chmod(0o500)
    if as_nobody or os.geteuid() != 0:
        with pytest.raises(AssertionError, match="Cannot write to the data directory") as caught:
            await hold(data_dir, "postgres", as_nobody=as_nobody)
        assert str(caught.value).strip().count("\n") == 0
    else:  # root may write anywhere but on a kernel's file system
        with pytest.raises(StartupError, match="Cannot write to the data directory"):
            await EmbeddedPostgres(Path("/proc/bpa-data")).__aenter__()


async def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(StartupError, match="Cannot write to the data directory"):
        await EmbeddedPostgres(tmp_path / "data").__aenter__()


async def test_a_file_in_the_place_of_the_cluster_is_refused(tmp_path: Path) -> None:
    (tmp_path / "postgres").write_text("")
    with pytest.raises(StartupError, match="is a file; remove it"):
        await EmbeddedPostgres(tmp_path).__aenter__()


async def test_foreign_files_in_the_place_of_the_cluster_are_refused(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "thesis.txt").write_text("precious")
    with pytest.raises(StartupError, match="no Postgres data"):
        await EmbeddedPostgres(tmp_path).__aenter__()
    assert (tmp_path / "postgres" / "thesis.txt").read_text() == "precious"


async def test_data_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(StartupError, match="Postgres 16, and this is 18"):
        await EmbeddedPostgres(tmp_path).__aenter__()


async def test_a_refused_start_leaves_no_process_and_releases_the_directory(
    old_data_dir: Path,
) -> None:
    with pytest.raises(StartupError, match=r"postgres ended with exit code 1: .*FATAL.*shared"):
        await EmbeddedPostgres(old_data_dir, settings={"shared_buffers": "nonsense"}).__aenter__()
    assert not servers_of(old_data_dir)
    assert not (old_data_dir / "postgres.sockets").exists()
    async with EmbeddedPostgres(old_data_dir, settings=FAST) as postgres:
        assert await _execute(postgres.dsn, "SELECT 1") == 1


async def test_the_death_of_the_server_takes_its_task_group_down_with_the_reason(
    old_data_dir: Path,
) -> None:
    async with EmbeddedPostgres(old_data_dir, settings=FAST) as postgres:
        watching = asyncio.TaskGroup()
        await watching.__aenter__()
        watching.create_task(postgres.process.watch())
        os.kill(postgres.process.pid, signal.SIGKILL)
        with pytest.raises(ExceptionGroup) as caught:
            await watching.__aexit__(None, None, None)
        assert caught.group_contains(Unavailable, match="postgres was killed by SIGKILL")
        ended: Exit = await postgres.process.died()
        assert ended.code == -signal.SIGKILL
        assert any(module._READY in line for line in ended.last_lines)


@as_root
async def test_root_runs_it_in_a_user_namespace_and_owns_the_files(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir, settings=FAST)
    async with postgres:
        assert (await postgres._decide_identity()).startswith("namespace:")
        assert user_namespace_of(postgres.process.pid) != user_namespace_of("self")
        assert owner_of(data_dir / "postgres") == 0


@as_root
async def test_without_user_namespaces_root_runs_it_as_nobody_and_leaves_parents_alone(
    open_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A namespace with an id that does not exist is what a kernel without namespaces looks like.
    monkeypatch.setattr(module, "_some_user", lambda: (-1, -1))
    before = (mode_of(open_directory), owner_of(open_directory))
    for _ in range(2):  # the second start goes by the owner of the data
        async with EmbeddedPostgres(open_directory / "data", settings=FAST) as postgres:
            assert postgres._identity == user(NOBODY, NOBODY)
            assert await _execute(postgres.dsn, "SELECT 1") == 1
            assert {p.uids().real for p in servers_of(open_directory)} == {NOBODY}
    assert (mode_of(open_directory), owner_of(open_directory)) == before


@as_root
async def test_a_folder_that_bars_the_other_users_way_is_named_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_some_user", lambda: (-1, -1))
    before = mode_of(tmp_path)
    with pytest.raises(StartupError, match=r"cannot enter .*choose a data directory outside"):
        await EmbeddedPostgres(tmp_path / "data").__aenter__()
    assert mode_of(tmp_path) == before == 0o700


@as_root
async def test_a_namespace_that_cannot_be_had_is_refused_in_one_line(data_dir: Path) -> None:
    with pytest.raises(StartupError, match=r"cannot start .*initdb \(namespace:-1:-1\)") as caught:
        await EmbeddedPostgres(data_dir, identity=namespace(-1, -1)).__aenter__()
    assert "\n" not in str(caught.value)
