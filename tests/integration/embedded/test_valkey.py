"""The embedded Valkey: it starts, it dies with us, it is taken over, it refuses in one line."""

import os
import signal
from pathlib import Path

import pytest
from redis.asyncio import Redis

from bpa.embedded.valkey import EmbeddedValkey
from bpa.errors import StartupError
from bpa.valkey import open_valkey
from tests.eventually import eventually
from tests.integration.embedded.conftest import Hold, alive, mode_of, servers_of


async def _client(url: str) -> Redis:
    return await open_valkey(url, client_name="test")


async def test_it_has_no_port_and_appends_to_a_file(data_dir: Path) -> None:
    async with EmbeddedValkey(data_dir) as valkey, await _client(valkey.url) as client:
        assert await client.config_get("port", "appendonly", "appendfsync") == {
            "port": "0",
            "appendonly": "yes",
            "appendfsync": "everysec",
        }
        socket = Path(valkey.url.removeprefix("unix://"))
        assert mode_of(socket.parent) == 0o700
    assert mode_of(socket.parent) is None
    assert not servers_of(data_dir)


async def test_data_survives_a_stop_and_a_start(data_dir: Path) -> None:
    async with EmbeddedValkey(data_dir) as valkey, await _client(valkey.url) as client:
        await client.set("kept", "42")
    async with EmbeddedValkey(data_dir) as valkey, await _client(valkey.url) as client:
        assert await client.get("kept") == "42"


async def test_after_a_kill_9_of_its_owner_no_server_survives_and_nothing_is_lost(
    account: tuple[Path, bool], hold: Hold
) -> None:
    data_dir, as_nobody = account
    holder = await hold(data_dir, "valkey", as_nobody=as_nobody)
    async with await _client(holder.ready["url"]) as client:
        await client.set("kept", "42")
    assert [process.pid for process in servers_of(data_dir)] == [holder.ready["valkey_pid"]]

    await holder.kill()
    await eventually(lambda: not servers_of(data_dir), within_s=2)

    holder = await hold(data_dir, "valkey", as_nobody=as_nobody)
    async with await _client(holder.ready["url"]) as client:
        assert await client.get("kept") == "42"


async def test_a_server_that_outlived_its_owner_is_taken_over_even_frozen(
    data_dir: Path, open_directory: Path
) -> None:
    async with EmbeddedValkey(data_dir):
        pass
    orphan = EmbeddedValkey(data_dir)._server(open_directory / "orphan.sock")
    orphan.start()
    await orphan.wait_for_line(lambda line: "Ready to accept" in line, timeout_s=10)
    os.kill(orphan.pid, signal.SIGSTOP)
    async with EmbeddedValkey(data_dir) as valkey, await _client(valkey.url) as client:
        assert not alive(orphan.pid)
        assert await client.ping()
    assert (await orphan.wait()).code == -signal.SIGKILL


async def test_the_second_on_one_data_directory_is_refused_in_one_line(
    data_dir: Path, hold: Hold
) -> None:
    await hold(data_dir, "valkey")
    with pytest.raises(StartupError, match="in use by another process") as caught:
        await EmbeddedValkey(data_dir).__aenter__()
    assert "\n" not in str(caught.value)


async def test_a_file_in_the_place_of_the_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "valkey").write_text("")
    with pytest.raises(StartupError, match="Cannot use"):
        await EmbeddedValkey(tmp_path).__aenter__()


async def test_a_torn_append_only_file_is_read_up_to_the_tear(data_dir: Path) -> None:
    async with EmbeddedValkey(data_dir) as valkey, await _client(valkey.url) as client:
        await client.set("kept", "42")
    (appended,) = (data_dir / "valkey" / "appendonlydir").glob("*.incr.aof")
    with appended.open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$4\r\nto")
    async with EmbeddedValkey(data_dir) as valkey, await _client(valkey.url) as client:
        assert await client.get("kept") == "42"
