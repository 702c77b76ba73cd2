"""The target API as a process: its ready line, its signals, and what survives a kill."""

import asyncio
import json
import signal
import sys

import aiohttp

from tests.eventually import eventually
from tests.integration.embedded.process import process

MODULE = "bpa.embedded.target"
KEYS = 400
ENOUGH = 60


def invoice(number):
    return {
        "run_id": f"r-{number}",
        "invoice_id": f"INV-{number}",
        "vendor": "Acme Ltd",
        "route": "it",
        "confidence": 0.9,
        "currency": "EUR",
        "total": "12.50",
        "issued_on": "2026-03-04",
        "kind": "invoice",
    }


async def post(session, url, number):
    async with session.post(
        f"{url}/invoices", json=invoice(number), headers={"Idempotency-Key": f'"k-{number}"'}
    ) as answer:
        assert answer.status == 201
        return (await answer.json())["id"], answer.headers.get("Idempotent-Replayed")


async def received(session, url):
    items, cursor = [], "0"
    while cursor is not None:
        params = {"cursor": cursor, "limit": "200"}
        async with session.get(f"{url}/_target/received", params=params) as answer:
            page = await answer.json()
        items += page["items"]
        cursor = page["next_cursor"]
    return items


async def test_every_answered_invoice_survives_kill_9_exactly_once(tmp_path):
    answered = {}
    async with aiohttp.ClientSession() as session:
        async with process(MODULE, "--data-dir", str(tmp_path)) as (target, ready):

            async def poster(numbers):
                for number in numbers:
                    try:
                        answered[number], _ = await post(session, ready["url"], number)
                    except aiohttp.ClientError:
                        return

            async def killer():
                await eventually(lambda: len(answered) >= ENOUGH, every_s=0.001)
                target.kill()

            await asyncio.gather(killer(), *(poster(range(n, KEYS, 8)) for n in range(8)))
            assert await target.wait() == -signal.SIGKILL
        assert ENOUGH <= len(answered) < KEYS, "the kill must fall into the middle"
        async with process(MODULE, "--data-dir", str(tmp_path)) as (_, ready):
            keys = [item["key"] for item in await received(session, ready["url"])]
            assert {f"k-{number}" for number in answered} <= set(keys)
            for number in range(KEYS):
                name, replayed = await post(session, ready["url"], number)
                assert answered.get(number, name) == name
                assert (replayed == "true") is (f"k-{number}" in keys)
            items = await received(session, ready["url"])
            assert sorted(item["key"] for item in items) == sorted(
                f"k-{number}" for number in range(KEYS)
            )
            assert all(
                item["body"] == invoice(int(item["key"].removeprefix("k-"))) for item in items
            )


async def test_without_a_directory_nothing_survives():
    async with aiohttp.ClientSession() as session:
        async with process(MODULE) as (_, ready):
            await post(session, ready["url"], 1)
        async with process(MODULE) as (_, ready):
            assert await received(session, ready["url"]) == []


async def test_sigterm_finishes_what_is_in_flight_and_exits_cleanly(tmp_path):
    async with (
        aiohttp.ClientSession() as session,
        process(MODULE, "--data-dir", str(tmp_path)) as (target, ready),
    ):
        assert ready == {
            "event": "ready",
            "service": "target",
            "port": ready["port"],
            "url": f"http://127.0.0.1:{ready['port']}",
        }
        script = {"rules": [{"latency_ms": 500}]}
        async with session.put(f"{ready['url']}/_target/script", json=script) as answer:
            assert answer.status == 200

        async def in_flight():
            async with session.get(f"{ready['url']}/_target/stats") as answer:
                return (await answer.json())["tries"] == 1

        async def stop():
            await eventually(in_flight)
            target.terminate()

        (name, _), _ = await asyncio.gather(post(session, ready["url"], 1), stop())
        assert name.startswith("inv_")
        assert await target.wait() == 0
        assert await target.stdout.read() == b"", "stdout carries the ready line alone"


async def test_a_taken_port_ends_the_process_with_one_line():
    async with process(MODULE) as (_, ready):
        second = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            MODULE,
            "--port",
            str(ready["port"]),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await second.communicate()
    assert second.returncode == 1
    assert out == b""
    assert str(ready["port"]) in err.decode()
    assert "--port" in err.decode()
    assert len(err.decode().splitlines()) == 1


async def test_a_data_directory_that_cannot_be_made_ends_the_process_with_one_line(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        MODULE,
        "--port",
        "0",
        "--data-dir",
        str(tmp_path / "file"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await started.communicate()
    assert started.returncode == 1
    assert out == b""
    assert "--data-dir" in err.decode()
    assert len(err.decode().splitlines()) == 1


async def test_logs_are_json_on_stderr():
    async with process(MODULE) as (target, _):
        target.terminate()
        _, err = await target.communicate()
    assert [json.loads(line)["event"] for line in err.splitlines()] == ["target_started"]
