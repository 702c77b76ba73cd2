"""The model stub as a process."""

import asyncio
import json
import sys

import anthropic

from tests.eventually import eventually
from tests.integration.embedded.process import process

MODULE = "bpa.embedded.anthropic"
ASK = {
    "model": "claude-test-model",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "From: Acme Ltd\nInvoice no: A-1"}],
}


async def test_it_says_that_no_model_is_behind_it_and_stops_on_sigterm():
    async with process(MODULE) as (stub, ready):
        assert ready == {
            "event": "ready",
            "service": "anthropic",
            "port": ready["port"],
            "url": f"http://127.0.0.1:{ready['port']}",
        }
        stub.terminate()
        out, err = await stub.communicate()
        assert stub.returncode == 0
    assert out == b""
    (entry,) = [json.loads(line) for line in err.splitlines()]
    assert entry["note"] == "model stub, no model is behind it"


async def test_sigterm_finishes_the_answer_in_flight():
    async with (
        process(MODULE) as (stub, ready),
        anthropic.AsyncAnthropic(
            api_key="k", base_url=ready["url"], max_retries=0, timeout=20.0
        ) as client,
    ):
        await client.put(
            "/_stub/script", cast_to=object, body={"rules": [{"latency_ms": 500, "times": 1}]}
        )

        async def in_flight():
            script = await client.get("/_stub/script", cast_to=object)
            return script["rules"][0]["applied"] == 1

        async def stop():
            await eventually(in_flight)
            stub.terminate()

        message, _ = await asyncio.gather(client.messages.create(**ASK), stop())
        assert "Acme Ltd" in message.content[0].text
        assert await stub.wait() == 0


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
    assert len(err.decode().splitlines()) == 1
