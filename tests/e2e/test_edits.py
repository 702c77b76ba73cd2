"""A deployment edited while its runs wait and work: nothing is lost, nothing is done twice."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bpa.embedded.target.server import TargetApi, TargetOptions
from tests.e2e.queues import emptied, send
from tests.e2e.server import Bpa, serving
from tests.e2e.test_target_failures import invoice
from tests.e2e.test_target_outage import script
from tests.eventually import eventually

DEPLOYMENT = "invoice-classifier-dev"
PATH = f"/v1/deployments/{DEPLOYMENT}"
AGENT = Path(__file__).parents[2] / "config" / "agents" / "invoice-classifier.json"


class World:
    """A system, and the two targets that its deployment posts to, one after the other."""

    def __init__(self, server: Bpa, old: TargetApi, new: TargetApi) -> None:
        self.server, self.old, self.new = server, old, new

    @property
    def bus(self) -> str:
        return self.server.addresses["service_bus"]

    async def edit(self, *settings: str) -> int:
        """Edit the deployment from a shell; return its revision once that feeds and is planned."""
        words = [word for one in settings for word in ("--set", one)]
        code, out, err = await self.server.run("deployments", "edit", DEPLOYMENT, *words, "--json")
        assert code == 0, err
        return await self.fed(json.loads(out)["revision"])

    async def roll_back(self, to: int) -> int:
        words = ("deployments", "rollback", DEPLOYMENT, "--to", str(to), "--json")
        code, out, err = await self.server.run(*words)
        assert code == 0, err
        return await self.fed(json.loads(out)["revision"])

    async def fed(self, revision: int) -> int:
        """Wait until the queue is read for this revision: each begins with a line in the log."""

        def begun() -> bool:
            lines = [one for one in self.server.log_lines() if one["event"] == "feeding"]
            return len(lines) >= revision

        await eventually(begun, within_s=20, every_s=0.1)
        return revision

    async def applied(self, target: TargetApi) -> dict[str, str]:
        """Return what a target has applied: invoice by key."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{target.url}/_target/received?limit=500") as response,
        ):
            items = (await response.json())["items"]
        return {item["key"]: item["body"]["invoice_id"] for item in items}

    async def replayed(self, run_id: str) -> dict[str, Any]:
        """Replay the dead letter of a run; return the run that came of it."""

        async def buried() -> list[str]:
            letters = (await self.server.get("/v1/dead-letters"))["deadLetters"]
            return [one["id"] for one in letters if one["runId"] == run_id]

        (letter,) = await eventually(buried, within_s=20, every_s=0.1)
        code, out, err = await self.server.run("dlq", "replay", "--id", letter, "--yes", "--json")
        assert code == 0, (out, err)

        async def ended() -> dict[str, Any]:
            dead = await self.server.get(f"/v1/runs/{run_id}")
            run = await self.server.get(f"/v1/runs/{dead['replayedAs']}")
            assert run["endedAt"], run["waitingReason"]
            return dict(run)

        return await eventually(ended, within_s=40, every_s=0.1)


@pytest.fixture
async def world(old_data_dir: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(TargetApi(TargetOptions(finish_s=1.0)))
        new = await stack.enter_async_context(TargetApi(TargetOptions(finish_s=1.0)))
        settings = {"http_out.base_url": f"{old.url}/invoices"}
        server = await stack.enter_async_context(serving(old_data_dir, **settings))
        yield World(server, old, new)


async def test_version_target_and_slots_change_while_runs_wait_and_work(world: World) -> None:
    server = world.server
    await script(world.old, {"latency_ms": 1_500})
    early = await send(world.bus, [invoice(f"E-{n:02}") for n in range(10)])

    async def at_work() -> list[str]:
        found = [run["runId"] for run in await server.runs() if run["status"] == "running"]
        assert len(found) >= 3
        return found

    await eventually(at_work, within_s=30, every_s=0.05)
    agent = {**json.loads(AGENT.read_text("utf-8")), "version": "2.0.0"}
    async with (
        aiohttp.ClientSession(server.addresses["http"]) as session,
        session.post("/v1/agents/invoice-classifier:version", json=agent) as response,
    ):
        assert response.status == 201, await response.text()
    known = {run["runId"] for run in await server.runs()}
    revision = await world.edit(
        'version="2.0.0"', f"httpOut.baseUrl={world.new.url}/invoices", "target.slotBudget=6"
    )
    late = await send(world.bus, [invoice(f"L-{n:02}") for n in range(4)])
    runs = await server.ended_of([*early, *late])
    await emptied(world.bus)

    assert {run["status"] for run in runs.values()} == {"completed"}
    versions = {run["runId"]: run["version"] for run in runs.values()}
    assert {versions[run_id] for run_id in known} == {"1.0.0"}, "a run keeps its version"
    assert {runs[trace]["version"] for trace in late} == {"2.0.0"}
    old, new = await world.applied(world.old), await world.applied(world.new)
    assert not {*old} & {*new}, "no effect went to both"
    assert sorted([*old.values(), *new.values()]) == sorted(
        [*(f"E-{n:02}" for n in range(10)), *(f"L-{n:02}" for n in range(4))]
    )
    assert len(old) >= 3
    assert {*(f"L-{n:02}" for n in range(4))} <= {*new.values()}

    assert await world.roll_back(1) == revision + 1
    await script(world.old)
    (back,) = await send(world.bus, [invoice("B-01")])
    run = (await server.ended_of([back]))[back]
    assert (run["status"], run["version"]) == ("completed", "1.0.0")
    assert "B-01" in (await world.applied(world.old)).values()


async def test_what_one_target_may_have_applied_is_replayed_to_that_one_alone(world: World) -> None:
    server = world.server
    await script(
        world.old,
        {"match": {"invoice_id": "LOST"}, "drop": "after"},
        {"match": {"invoice_id": "LOST"}, "status": 500},
        {"match": {"invoice_id": "NEVER"}, "status": 503},
    )
    lost, never = await send(world.bus, [invoice("LOST"), invoice("NEVER")])
    runs = await server.ended_of([lost, never])
    assert {run["reason"] for run in runs.values()} == {"RetriesExhausted"}
    await world.edit(f"httpOut.baseUrl={world.new.url}/invoices")

    sent_on = await world.replayed(runs[never]["runId"])
    assert sent_on["status"] == "completed", "nobody has applied it, so it goes where it should now"
    held_back = await world.replayed(runs[lost]["runId"])
    assert (held_back["status"], held_back["reason"]) == ("dead_lettered", "OutcomeUnknown")
    assert world.old.url in held_back["detail"]
    assert list((await world.applied(world.new)).values()) == ["NEVER"]

    await script(world.old)
    await world.roll_back(1)
    again = await world.replayed(held_back["runId"])
    assert again["status"] == "completed"
    assert list((await world.applied(world.old)).values()) == ["LOST"], "once, under its first key"
    assert list((await world.applied(world.new)).values()) == ["NEVER"]
