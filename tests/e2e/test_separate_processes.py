"""Control and nodes as processes of their own, joined by gRPC only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.fleet import Backing, Fleet, backing
from tests.e2e.queues import documents, emptied, send_documents
from tests.e2e.server import Bpa, nobody_lives
from tests.eventually import eventually

CHOSEN = [d for d in documents() if d.content_type == "application/json"]


@pytest.fixture(scope="module")
def servers(
    runner: asyncio.Runner, made_cluster: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Backing]:
    """The stores and doubles, for all tests of the module."""
    stack = AsyncExitStack()
    directory = tmp_path_factory.mktemp("backing")
    yield runner.run(stack.enter_async_context(backing(directory, made_cluster)))
    runner.run(stack.aclose())


@pytest.fixture
async def fleet(servers: Backing, tmp_path: Path) -> AsyncIterator[Fleet]:
    """A fleet that is not started yet, with a database of its own; scripts end with the test."""
    yield Fleet(tmp_path, await servers.settings(), servers.local)
    async with (
        aiohttp.ClientSession(servers.local.anthropic_url) as session,
        session.delete("/_stub/script") as response,
    ):
        assert response.status == 200


async def test_runs_go_only_to_nodes_of_the_regions_that_their_deployment_names(
    fleet: Fleet,
) -> None:
    async with (
        fleet.governed() as control,
        fleet.node("sydney", "aus-east"),
        fleet.node("dublin", "eu-north"),
    ):
        await fleet.deploy("here", ["aus-east"])
        await fleet.deploy("there", ["eu-north", "eu-south"])
        bus = control.addresses["service_bus"]
        here = await send_documents(bus, CHOSEN[:6], "here")
        there = await send_documents(bus, CHOSEN[6:12], "there")

        runs = await control.ended_of([*here, *there])

        assert {run["status"] for run in runs.values()} == {"completed"}
        assert {runs[trace_id]["nodeId"] for trace_id in here} == {"sydney"}
        assert {runs[trace_id]["nodeId"] for trace_id in there} == {"dublin"}
        await emptied(bus, "here")
        await emptied(bus, "there")


async def test_a_run_without_an_admissible_node_waits_and_says_why_until_one_registers(
    fleet: Fleet,
) -> None:
    async with fleet.governed() as control, fleet.node("sydney", "aus-east"):
        await fleet.deploy("elsewhere", ["us-west"])
        bus = control.addresses["service_bus"]
        sent = await send_documents(bus, CHOSEN[:2], "elsewhere")

        async def told() -> dict[str, Any]:
            run = await control.run_of(sent[0])
            assert run["status"] == "queued"
            assert run["waitingNodes"], run["waitingReason"]
            return run

        run = await eventually(told, within_s=10, every_s=0.1)
        assert run["waitingNodes"] == {"sydney": "region=aus-east"}
        assert "region" in run["waitingReason"]
        assert run["nodeId"] is None

        async with fleet.node("portland", "us-west"):
            runs = await control.ended_of(sent)

        assert [runs[i]["status"] for i in sent] == ["completed", "completed"]
        assert [runs[i]["nodeId"] for i in sent] == ["portland", "portland"]
        await emptied(bus, "elsewhere")


async def test_the_runs_of_a_killed_node_are_executed_by_another_one(fleet: Fleet) -> None:
    async with fleet.governed() as control, fleet.node("first", "aus-east") as first:
        await fleet.deploy("node-lost", ["aus-east"])
        slow = {"match": {"contains": CHOSEN[0].expected["invoice_id"]}, "times": 1}
        await control.put("/_stub/script", {"rules": [{**slow, "latency_ms": 25_000}]}, "anthropic")
        bus = control.addresses["service_bus"]
        (trace_id,) = await send_documents(bus, CHOSEN[:1], "node-lost")

        async def in_hand() -> bool:
            run = await control.run_of(trace_id)
            return bool(run["status"] == "running" and run["steps"])

        await eventually(in_hand, within_s=15, every_s=0.05)
        async with fleet.node("second", "aus-east"):
            family = await first.kill()
            assert len(family) >= 3, "the node, its zygote and a sandbox lived"
            await nobody_lives(family)

            run = (await control.ended_of([trace_id]))[trace_id]

            assert (run["status"], run["nodeId"]) == ("completed", "second")
            whole = await control.run_of(trace_id)
            assert (whole["executions"], whole["infraFailures"]) == (2, 1)
            assert (whole["agentFailures"], whole["crashes"]) == (0, 0)
            received = await control.received()
            assert [i["body"]["run_id"] for i in received].count(run["runId"]) == 1
            await emptied(bus, "node-lost", within_s=10)


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_a_control_that_was_away_finds_its_nodes_and_their_work_again(
    fleet: Fleet, how: str
) -> None:
    queue = f"control-{how}"
    async with fleet.governed() as control:
        ports = {
            "control.grpc_port": control.addresses["grpc"].rpartition(":")[2],
            "control.http_port": control.addresses["http"].rpartition(":")[2],
        }
        async with fleet.node("only", "aus-east"):
            await fleet.deploy(queue, ["aus-east"])
            await control.put("/_stub/script", {"rules": [{"latency_ms": 2_000}]}, "anthropic")
            bus = control.addresses["service_bus"]
            sent = await send_documents(bus, CHOSEN[:4], queue)

            async def at_work() -> bool:
                return "running" in {run["status"] for run in await control.runs()}

            await eventually(at_work, within_s=15, every_s=0.05)
            if how == "killed":
                await nobody_lives(await control.kill())
            else:
                assert await control.stop(within_s=10) == 0, "though a node is connected"
                assert "abandon_failed" not in control.log_text()

            async with fleet.governed(**ports) as again:
                runs = await again.ended_of(sent)
                assert {run["status"] for run in runs.values()} == {"completed"}
                await emptied(bus, queue, within_s=20)  # no lock of a minute had to run out
                received = [item["body"]["run_id"] for item in await again.received()]
                assert [received.count(run["runId"]) for run in runs.values()] == [1] * 4
                assert len(await again.runs()) == 4


async def test_a_node_whose_id_is_taken_never_says_that_it_is_ready(fleet: Fleet) -> None:
    async with fleet.governed() as control, fleet.node("node-1", "here"):
        words = {**fleet.settings, "node.id": "node-1", "node.control": control.addresses["grpc"]}
        second = Bpa(fleet.directory / "second", "node", **words)
        await second.spawn()
        try:

            def refused() -> bool:
                said = [line.get("error", "") for line in second.log_lines()]
                return any("another process is at work as node 'node-1'" in one for one in said)

            await eventually(refused, within_s=30, every_s=0.1)
        finally:
            assert await second.stop() == 0
        assert second.process.stdout is not None
        assert await second.process.stdout.read() == b""
