"""SIGTERM: what runs ends, what waits is given back; a second one ends at once."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.queues import documents, emptied, send_documents
from tests.e2e.server import Bpa, nobody_lives, serving
from tests.eventually import eventually

CHOSEN = [d for d in documents() if d.content_type == "application/json"]


async def working(server: Bpa, count: int) -> None:
    """Wait until so many runs are at work."""

    async def probe() -> bool:
        status = [run["status"] for run in await server.runs()]
        assert status.count("running") >= count, status
        script = await server.get("/_stub/script", "anthropic")
        assert script["rules"][0]["applied"] >= count
        return True

    await eventually(probe, within_s=20, every_s=0.05)


async def test_sigterm_lets_running_work_end_and_gives_the_rest_back(old_data_dir: Path) -> None:
    async with serving(old_data_dir) as server:
        bus = server.addresses["service_bus"]
        rules = [{"latency_ms": 1_500}]
        await server.put("/_stub/script", {"rules": rules}, "anthropic")
        sent = await send_documents(bus, CHOSEN[:10])
        await working(server, 4)  # the slot budget: the others wait
        running = {r["runId"] for r in await server.runs() if r["status"] == "running"}
        family = server.family()
        assert len(family) >= 7
        asked_at = time.monotonic()

        assert await server.stop() == 0

        assert time.monotonic() - asked_at < 10
        await nobody_lives(family)
        ended = [line["run_id"] for line in server.log_lines() if line["event"] == "run_ended"]
        assert running <= set(ended)
        assert not [line for line in server.log_lines() if "lost" in line["event"]]
        assert not [line for line in server.log_lines() if line["event"] == "abandon_failed"]
        settled = [line for line in server.log_lines() if line["event"] == "message_settled"]
        assert len(settled) == len(ended) < 10
        assert not (old_data_dir / "addresses.json").exists()

    async with serving(old_data_dir) as server:
        started_at = time.monotonic()
        runs = await server.ended_of(sent, within_s=15)
        assert time.monotonic() - started_at < 10, "no lock had to run out"
        assert {run["status"] for run in runs.values()} == {"completed"}
        assert {run["executions"] for run in runs.values()} == {1}
        await emptied(server.addresses["service_bus"])
        received = [item["body"]["run_id"] for item in await server.received()]
        assert sorted(received) == sorted(run["runId"] for run in runs.values())


@pytest.mark.parametrize(("second", "expected"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_a_second_signal_ends_at_once(
    old_data_dir: Path, second: signal.Signals, expected: int
) -> None:
    async with serving(old_data_dir) as server:
        rules = [{"latency_ms": 60_000}]
        await server.put("/_stub/script", {"rules": rules}, "anthropic")
        await send_documents(server.addresses["service_bus"], CHOSEN[:2])
        await working(server, 2)
        family = server.family()

        server.process.send_signal(signal.SIGTERM)
        await eventually(lambda: "node_draining" in server.log_text(), within_s=10)
        assert server.process.returncode is None, "the first waits for what runs"
        code, out, err = await server.run("runs", "list", "--json")
        assert (code, len(json.loads(out)["runs"])) == (0, 2), err
        asked_at = time.monotonic()
        server.process.send_signal(second)

        assert await server.process.wait() == expected
        assert time.monotonic() - asked_at < 5
        await nobody_lives(family)
        assert not [line for line in server.log_lines() if line["event"] == "execution_ended"]
