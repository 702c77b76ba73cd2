"""The demonstration as a newcomer runs it: one command, and an account that balances."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.server import BPA, Bpa, nobody_lives
from tests.eventually import eventually

REASONS = {
    "BudgetExceeded": 1,
    "DeserializationError": 1,
    "NonRetryableHttpStatus": 1,
    "RetriesExhausted": 1,
    "SchemaValidationFailed": 1,
}


@dataclass
class Demo:
    """One ``bpa demo`` with its output so far."""

    process: asyncio.subprocess.Process
    told: list[str] = field(default_factory=list)

    def family(self) -> list[psutil.Process]:
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    async def listen(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.told.append(line.decode())

    async def said(self, words: str, within_s: float = 60.0) -> None:
        await eventually(lambda: any(words in line for line in self.told), within_s=within_s)

    async def ended(self, within_s: float = 60.0) -> tuple[int, dict[str, Any]]:
        assert self.process.stdout is not None
        async with asyncio.timeout(within_s):
            out = await self.process.stdout.read()
            code = await self.process.wait()
        return code, json.loads(out) if out else {}


@contextlib.asynccontextmanager
async def demonstrating(folder: Path, *options: str) -> AsyncIterator[Demo]:
    """Run ``bpa demo --json`` with temporary folders under ``folder``; leave nothing behind."""
    process = await asyncio.create_subprocess_exec(
        BPA, "demo", "--json", *options,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(folder)},
    )  # fmt: skip
    demo = Demo(process)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(demo.listen())
        try:
            yield demo
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                await process.wait()


async def test_the_demonstration_balances_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async with demonstrating(tmp_path, "--timeout", "45") as demo:
        await demo.said("sent 10")
        family = demo.family()
        assert len(family) >= 6, "server, database, holds, queue, model and target"
        code, summary = await demo.ended()
    assert summary["discrepancies"] == []
    assert (code, summary["balanced"]) == (0, True)
    assert (summary["documents"], summary["completed"]) == (100, 95)
    assert summary["dead_lettered"] == REASONS
    assert summary["target"]["received"] == 95
    assert summary["tokens_in"] > 95
    assert float(summary["cost_usd"]) > 0
    assert summary["latency_p50_ms"] <= summary["latency_p95_ms"]
    await nobody_lives(family)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_demonstration_that_is_interrupted_stops_its_server(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with demonstrating(tmp_path) as demo:
        await demo.said("sent 10")
        family = demo.family()
        demo.process.send_signal(number)
        assert (await demo.ended(within_s=20))[0] == 130
    await nobody_lives(family)
    assert list(tmp_path.iterdir()) == []


async def test_a_demonstration_that_is_killed_takes_its_server_along(tmp_path: Path) -> None:
    async with demonstrating(tmp_path) as demo:
        await demo.said("sent 10")
        family = demo.family()
        demo.process.kill()
        await demo.process.wait()
        await nobody_lives(family)


async def test_a_demonstration_that_is_kept_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    async with demonstrating(tmp_path, "--keep", "--data-dir", str(data_dir)) as demo:
        await demo.said("keeps running")
        other = Bpa(data_dir)
        code, out, _ = await other.run("runs", "list", "--status", "dead_lettered", "--json")
        assert code == 0
        listed = json.loads(out)["runs"]
        assert {run["reason"] for run in listed} == set(REASONS)
        code, out, _ = await other.run("runs", "show", listed[0]["runId"])
        assert code == 0
        assert listed[0]["reason"] in out
        assert (await other.run("runs", "cancel", listed[0]["runId"]))[0] == 5
        code, out, _ = await other.run("nodes", "list")
        assert "ready" in out
        demo.process.send_signal(signal.SIGINT)
        assert (await demo.ended(within_s=20))[0] == 0
    assert data_dir.exists(), "a folder that was named is kept"


async def test_a_demonstration_on_a_server_in_use_counts_its_own_messages_only(
    server: Bpa,
) -> None:
    stray = {"match": {"invoice_id": "BB-00036"}, "status": 404}
    await server.put("/_target/script", {"rules": [stray]}, "target")
    code, out, _ = await server.run("demo", "--against-running", "--json")
    summary = json.loads(out)
    assert code == 1
    assert not summary["balanced"]
    assert {line.split(":")[0] for line in summary["discrepancies"]} == {
        "001-bergblick-bb-00036.json"
    }
    script = await server.get("/_target/script", "target")
    assert [told["rule"]["status"] for told in script["rules"]] == [404], "taken back afterwards"
    await server.put("/_target/script", {"rules": []}, "target")
    code, out, _ = await server.run("demo", "--against-running", "--json")
    assert code == 0
    assert json.loads(out)["completed"] == 95


async def test_what_has_not_ended_in_time_is_named_in_one_line_each(server: Bpa) -> None:
    slow = {"latency_ms": 2_000}
    await server.put("/_target/script", {"rules": [slow]}, "target")
    code, out, err = await server.run("demo", "--against-running", "--json", "--timeout", "1")
    assert code == 1
    assert "had not ended after 1 s (--timeout)" in err
    summary = json.loads(out)
    assert summary["unfinished"] > 50
    assert len(summary["discrepancies"]) == summary["unfinished"]
    await server.put("/_target/script", {"rules": []}, "target")
    await server.ended(0)
    runs = await server.runs()
    assert runs
