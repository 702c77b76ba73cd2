"""Starts that cannot succeed say why in one line and leave nothing behind; others take over."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.e2e.queues import documents, emptied, send_documents
from tests.e2e.server import BPA, FREE_PORTS, Bpa, alive, nobody_lives, serving
from tests.eventually import eventually

ROOT = Path(__file__).parents[2]
CHOSEN = documents()[:3]


@pytest.fixture
def taken_port() -> Iterator[str]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield str(listener.getsockname()[1])


async def refused(
    data_dir: Path,
    *,
    code: int = 1,
    role: str = "all",
    prefix: Sequence[str] = (),
    **settings: str,
) -> str:
    """Start what cannot start; return its one line on stderr, and check what it left."""
    server = Bpa(data_dir, role, **{"log.level": "error", **settings})
    before = set(psutil.Process().children(recursive=True))
    process = await asyncio.create_subprocess_exec(
        *prefix, BPA, *server.flags, "serve", "--role", role, "--json",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True,
        env=server.environment,
    )  # fmt: skip
    async with asyncio.timeout(40):
        out, err = await process.communicate()
    assert out == b"", "it never was ready"
    assert process.returncode == code, err.decode()
    await nobody_lives(_of_session(process.pid))
    await nobody_lives(set(psutil.Process().children(recursive=True)) - before)
    if data_dir.exists() and os.access(data_dir, os.W_OK):
        assert not (data_dir / "addresses.json").exists()
        assert _in_use(data_dir) == []
    return err.decode()


def one_line(err: str) -> str:
    """Check that there is one line for people, and return it."""
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


def _of_session(pid: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == pid:
                found.append(process)
        except ProcessLookupError:
            continue
    return found


def _in_use(directory: Path) -> list[str]:
    """Return the processes that work in the directory or were told of it."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = " ".join(process.info["cmdline"] or [])
        if str(directory) in words or (process.info["cwd"] or "").startswith(str(directory)):
            found.append(process)
    return alive(found)


@pytest.mark.parametrize("setting", sorted(FREE_PORTS))
async def test_a_port_that_is_taken_is_named_with_its_setting(
    old_data_dir: Path, taken_port: str, setting: str
) -> None:
    line = one_line(await refused(old_data_dir, **{setting: taken_port}))

    assert taken_port in line
    assert re.search(rf"{re.escape(setting)}\b", line)


async def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    data_dir = tmp_path / "file" / "data"

    line = one_line(await refused(data_dir))

    assert str(data_dir) in line


async def test_a_data_directory_in_use_is_not_shared(server: Bpa) -> None:
    code, out, err = await server.run("--set", "log.level=error", "serve", "--role", "all")

    assert (code, out) == (1, "")
    assert "in use by another process" in one_line(err)
    (trace_id,) = await send_documents(server.addresses["service_bus"], CHOSEN[:1])
    assert (await server.ended_of([trace_id]))[trace_id]["status"] == "completed"
    await emptied(server.addresses["service_bus"])


async def test_every_wrong_setting_is_reported_at_once(data_dir: Path) -> None:
    wrong = {
        "node.slots": "many",
        "control.http_prot": "8080",
        "log.format": "yaml",
        "control.lease_ttl_s": "soon",
    }

    err = await refused(data_dir, code=2, **wrong)

    assert "Traceback" not in err
    assert all(key in err for key in wrong)
    assert "did you mean 'control.http_port'" in err
    assert not data_dir.exists()


@pytest.mark.parametrize(
    ("role", "missing"),
    [
        ("control", ["postgres.dsn", "redis.url", "service_bus.connection_string"]),
        ("node", ["node.control", "anthropic.api_key", "http_out.base_url"]),
    ],
)
async def test_a_role_that_embeds_nothing_names_all_that_it_needs(
    data_dir: Path, role: str, missing: list[str]
) -> None:
    err = await refused(data_dir, code=2, role=role)

    assert "Traceback" not in err
    assert all(key in err for key in missing)


async def test_a_postgres_out_of_reach_is_waited_for_in_words_until_a_signal_comes(
    data_dir: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    dsn = f"postgresql://bpa:topsecret@127.0.0.1:{port}/bpa"
    server = Bpa(data_dir, **{"postgres.dsn": dsn})
    await server.spawn()
    try:

        def says() -> dict[str, Any]:
            events = {line["event"]: line for line in server.log_lines()}
            assert {"listening", "dependency_away"} <= set(events), events
            assert str(port) in events["dependency_away"]["waiting_for"], events
            return events

        events = await eventually(says, within_s=30)
        server.addresses = {"http": events["listening"]["http"]}
        assert (await server.get("/livez"))["status"] == "alive"
        async with (
            aiohttp.ClientSession(server.addresses["http"]) as session,
            session.get("/readyz") as answer,
        ):
            assert answer.status == 503
            assert "Postgres" in (await answer.json())["reasons"][0]
    finally:
        family = server.family()
        assert await server.stop() == 0
        await nobody_lives(family)
    assert server.process.stdout is not None
    assert await server.process.stdout.read() == b"", "it never was ready"
    assert "topsecret" not in server.log_text()


async def test_no_server_of_a_killed_one_survives_and_the_next_start_takes_over(
    data_dir: Path, taken_port: str
) -> None:
    await refused(data_dir, **{"control.http_port": taken_port})  # is in nobody's way, either
    async with serving(data_dir) as server:
        (trace_id,) = await send_documents(server.addresses["service_bus"], CHOSEN[:1])
        await server.ended_of([trace_id])
        family = await server.kill()
        assert len(family) >= 7, "bpa, Postgres, Valkey, emulator, stub, target and zygote lived"
        await nobody_lives(family, within_s=2.0)
        assert _in_use(data_dir) == []

    async with serving(data_dir) as server:
        assert [run["traceId"] for run in await server.runs()] == [trace_id]


async def test_starts_that_are_killed_midway_are_in_nobodys_way(data_dir: Path) -> None:
    for moment in ("postgres", "postgres/global/pg_control", "valkey.log"):
        server = Bpa(data_dir)
        await server.spawn()
        started = data_dir / moment
        await eventually(started.exists, within_s=20, every_s=0.001)
        assert server.addresses == {}, "not ready yet"
        await nobody_lives(await server.kill())

    async with serving(data_dir) as server:
        (trace_id,) = await send_documents(server.addresses["service_bus"], CHOSEN[:1])
        assert (await server.ended_of([trace_id]))[trace_id]["status"] == "completed"


def as_ordinary_user() -> list[str]:
    """Return what runs a command without any privilege: in a user namespace, where root is 1000.

    Another user of the system could not read an interpreter in root's home; files stay ours here.
    """
    return ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.getuid() == 0 else []


def test_the_ordinary_user_of_these_tests_has_no_privilege(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    tried = 'id -u; touch "$0/file"; chown 1 "$0"; cat /proc/self/status'
    done = subprocess.run(
        [*as_ordinary_user(), "sh", "-c", tried, locked], capture_output=True, text=True
    )
    assert done.stdout.splitlines()[0] != "0"
    assert re.search(r"CapEff:\s+0{16}\b", done.stdout)
    assert list(locked.iterdir()) == []


async def test_an_ordinary_user_is_served_killed_and_served_again(data_dir: Path) -> None:
    server = Bpa(data_dir, prefix=as_ordinary_user())
    await server.start()
    try:
        (trace_id,) = await send_documents(server.addresses["service_bus"], CHOSEN[:1])
        assert (await server.ended_of([trace_id]))[trace_id]["status"] == "completed"
        family = await server.kill()
        assert len(family) >= 7
        await nobody_lives(family, within_s=2.0)

        await server.start()
        assert [run["traceId"] for run in await server.runs()] == [trace_id]
        more = await send_documents(server.addresses["service_bus"], CHOSEN[1:2])
        assert (await server.ended_of(more))[more[0]]["status"] == "completed"
        await emptied(server.addresses["service_bus"])
    finally:
        await server.end()


async def test_an_unwritable_data_directory_is_named(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o555)

    line = one_line(await refused(data_dir, prefix=as_ordinary_user()))

    assert str(data_dir) in line
    assert list(data_dir.iterdir()) == []


def test_make_install_without_a_c_compiler_says_so_before_anything_is_fetched(
    tmp_path: Path,
) -> None:
    tree, tools = tmp_path / "tree", tmp_path / "bin"
    shutil.copytree(ROOT / "requirements", tree / "requirements")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tree)
    tools.mkdir()
    (tools / "python3").symlink_to(Path(sys.executable).resolve())
    make = shutil.which("make")
    assert make is not None

    done = subprocess.run(
        [make, "install"], cwd=tree, env={"PATH": str(tools)}, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip

    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(lines) == 1
    assert "C compiler" in lines[0]
    assert "gcc" in lines[0]
    assert not (tree / ".venv").exists()


async def test_a_secret_in_a_flag_is_refused_before_anything_starts(data_dir: Path) -> None:
    words = [BPA, "--set", "anthropic.api_key=hunter2", "--set", f"data_dir={data_dir}"]
    process = await asyncio.create_subprocess_exec(
        *words, "serve", "--role", "all", stderr=asyncio.subprocess.PIPE
    )
    _, err = await process.communicate()
    assert process.returncode == 2
    assert b"BPA_ANTHROPIC__API_KEY" in err
    assert b"hunter2" not in err
    assert not data_dir.exists()
