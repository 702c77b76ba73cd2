"""The client and its scripts, against a real Valkey."""

import asyncio
import hashlib
import os
import signal
from pathlib import Path

import pytest
import redis.exceptions
from redis.asyncio import Redis

from bpa.embedded.valkey import EmbeddedValkey
from bpa.errors import Unavailable
from bpa.valkey import Script, load_script, open_valkey, translated
from tests.cancelling import cancelled_after
from tests.eventually import eventually

ADD = """\
-- Add to a counter.
-- KEYS: the counter. ARGV: how much.
return redis.call('INCRBY', KEYS[1], ARGV[1])
"""


@pytest.fixture
def add(tmp_path: Path) -> Script:
    (tmp_path / "add.lua").write_text(ADD)
    return load_script(tmp_path / "module.py", "add")


async def _client(url: str) -> Redis:
    return await open_valkey(url, client_name="test")


async def test_replies_are_text_and_the_client_is_named(valkey_url: str) -> None:
    async with await _client(valkey_url) as client:
        await client.set("a", "ä")
        assert await client.get("a") == "ä"
        assert await client.client_getname() == "test"


async def test_a_script_runs_where_the_server_has_never_seen_it_and_where_it_has(
    valkey_url: str, add: Script
) -> None:
    async with await _client(valkey_url) as client:
        digest = hashlib.sha1(ADD.encode(), usedforsecurity=False).hexdigest()
        assert await client.script_exists(digest) == [False]
        assert await add(client, keys=["n"], args=[2]) == 2
        assert await client.script_exists(digest) == [True]
        assert await add(client, keys=["n"], args=[3]) == 5
        await client.script_flush()
        assert await add(client, keys=["n"], args=[1]) == 6


async def test_a_script_that_is_wrong_is_not_taken_for_an_outage(valkey_url: str) -> None:
    async with await _client(valkey_url) as client:
        with pytest.raises(redis.exceptions.ResponseError):
            await Script("wrong", "return nonsense.field")(client, keys=[])


@pytest.mark.parametrize("text", ["return 1", "-- Says nothing.\nreturn KEYS[1] .. ARGV[1]"])
def test_a_script_without_its_keys_and_arguments_in_a_header_is_refused(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "bare.lua").write_text(text)
    with pytest.raises(ValueError, match=r"bare\.lua: say in a comment"):
        load_script(tmp_path / "module.py", "bare")


async def test_a_valkey_that_is_away_says_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="Valkey does not answer"):
        await _client(f"unix://{tmp_path}/nothing.sock")


async def test_a_valkey_that_dies_says_unavailable_and_its_successor_is_found_by_itself(
    data_dir: Path, add: Script
) -> None:
    async with EmbeddedValkey(data_dir) as valkey, await _client(valkey.url) as client:
        assert await add(client, keys=["n"], args=[1]) == 1
        os.kill(valkey.process.pid, signal.SIGKILL)
        await valkey.process.died()
        with pytest.raises(Unavailable):
            await add(client, keys=["n"], args=[1])
        valkey.process.start()

        async def answers() -> int | None:
            try:
                return int(await add(client, keys=["n"], args=[1]))
            except Unavailable:
                return None

        assert await eventually(answers) == 2


async def test_a_full_valkey_says_unavailable(data_dir: Path) -> None:
    async with EmbeddedValkey(data_dir) as valkey, await _client(valkey.url) as client:
        await client.config_set("maxmemory", "1")
        with pytest.raises(Unavailable), translated():
            await client.set("a", "b")


async def test_a_frozen_valkey_says_unavailable_within_the_replys_bound(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bpa.valkey._REPLY_TIMEOUT_S", 0.2)
    async with EmbeddedValkey(data_dir) as valkey, await _client(valkey.url) as client:
        os.kill(valkey.process.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(2):
                with pytest.raises(Unavailable), translated():
                    await client.get("a")
        finally:
            os.kill(valkey.process.pid, signal.SIGCONT)


async def test_a_script_that_is_cancelled_ends_so_in_whichever_moment(
    valkey_url: str, add: Script
) -> None:
    async with await _client(valkey_url) as client:
        await add(client, keys=["n"], args=[0])
        under_way = 0
        for turns in range(12):
            call = asyncio.ensure_future(add(client, keys=["n"], args=[1]))
            under_way += await cancelled_after(turns, call)
        assert under_way >= 2, "before the command is sent, and while it is"
        assert await add(client, keys=["n"], args=[0]) > 0, "some had been sent by then"
