"""A node is drained under load: nothing comes to it, nothing is lost, nothing is paid for twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.fleet import Fleet, backing
from tests.e2e.queues import documents, emptied, send
from tests.e2e.server import BPA, Bpa, nobody_lives
from tests.eventually import eventually

QUEUE = "drained"
TEMPLATE = next(d for d in documents() if d.name.startswith("001-"))
STUCK_AT_TARGET = [f"AT-TARGET-{number}" for number in range(2)]
STUCK_AT_MODEL = [f"AT-MODEL-{number}" for number in range(2)]
STUCK = {*STUCK_AT_TARGET, *STUCK_AT_MODEL}
PATIENT = {"node.slots": "10", "anthropic.timeout_s": "300"}
ENDS_BY_ITSELF = [f"BY-ITSELF-{number}" for number in range(2)]


@pytest.fixture
async def fleet(tmp_path: Path, made_cluster: Path) -> AsyncIterator[Fleet]:
    """A fleet that is not started yet, with servers of its own: their accounts are counted."""
    async with backing(tmp_path, made_cluster) as servers:
        yield Fleet(tmp_path, await servers.settings(), servers.local)


async def sent(control: Bpa, invoice_ids: list[str]) -> dict[str, str]:
    """Send an invoice under each of these numbers; return the numbers by trace id."""
    template = json.loads(TEMPLATE.body)
    bodies = [
        (json.dumps({**template, "invoice_id": one}).encode(), TEMPLATE.content_type)
        for one in invoice_ids
    ]
    traces = await send(control.addresses["service_bus"], bodies, QUEUE)
    return dict(zip(traces, invoice_ids, strict=True))


async def bpa(control: Bpa, *words: str) -> tuple[int, str, str]:
    """Run a command against a control that others find by its address."""
    return await control.run("--set", f"control.url={control.addresses['http']}", *words)


@contextlib.asynccontextmanager
async def watched(
    control: Bpa, node: str, *words: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run ``bpa drain`` of a node that holds something, from when it is seen to watch."""
    address = ("--set", f"control.url={control.addresses['http']}")
    process = await asyncio.create_subprocess_exec(
        BPA, *control.flags, *address, "drain", node, *words,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=control.environment,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        async with asyncio.timeout(40):
            while b" remain" not in (line := await process.stderr.readline()):
                assert line, "it ended before it watched"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ask(control: Bpa, node: str, verb: str, body: Any = None) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession(control.addresses["http"]) as session,
        session.post(f"/v1/nodes/{node}:{verb}", json=body) as response,
    ):
        assert response.status == 200, await response.text()
        return dict(await response.json())


async def scripted(control: Bpa) -> None:
    """Have some invoices wait at the target, some at the model, and two take a moment."""
    busy = {"status": 503, "retry_after_s": 30}
    await control.put(
        "/_target/script",
        {"rules": [{"match": {"invoice_id": one}, **busy} for one in STUCK_AT_TARGET]},
        "target",
    )
    slow = [
        {"match": {"contains": one}, "latency_ms": 600_000, "times": 1} for one in STUCK_AT_MODEL
    ]
    slow += [{"match": {"contains": one}, "latency_ms": 3_000} for one in ENDS_BY_ITSELF]
    await control.put("/_stub/script", {"rules": slow}, "anthropic")


async def stuck(control: Bpa) -> None:
    """Wait until what is to be stuck is."""

    async def probe() -> bool:
        for base, path, count in (
            ("target", "/_target/script", len(STUCK_AT_TARGET)),
            ("anthropic", "/_stub/script", len(STUCK_AT_MODEL)),
        ):
            rules = (await control.get(path, base))["rules"][:count]
            assert all(rule["applied"] for rule in rules), rules
        return True

    await eventually(probe, within_s=30, every_s=0.1)


async def held(control: Bpa, node: str, count: int) -> list[dict[str, Any]]:
    """Wait until a node works on so many runs; return its leases."""

    async def probe() -> list[dict[str, Any]]:
        leases = (await control.get(f"/v1/nodes/{node}"))["leases"]
        working = [one for one in leases if one["acknowledgedAt"]]
        assert len(working) == count, leases
        return working

    return await eventually(probe, within_s=20, every_s=0.05)


async def test_a_node_is_drained_under_load(fleet: Fleet) -> None:
    async with (
        fleet.governed(**{"control.lease_ttl_s": "15"}) as control,
        fleet.node("leaves", "aus-east", **PATIENT) as leaves,
        fleet.node("stays", "aus-east"),
    ):
        await fleet.deploy(
            QUEUE,
            ["aus-east"],
            target={"slotBudget": 20},
            httpOut={"timeoutS": 1.0},
            budgets={"maxDuration": "10m"},
        )
        await scripted(control)
        await ask(control, "stays", "cordon")
        runs = await sent(control, [*STUCK_AT_TARGET, *STUCK_AT_MODEL])
        await stuck(control)
        runs |= await sent(control, ENDS_BY_ITSELF)
        there = {one["runId"] for one in await held(control, "leaves", len(runs))}
        await ask(control, "stays", "uncordon")

        burst, asked = await asyncio.gather(
            sent(control, [f"BURST-{number}" for number in range(8)]),
            ask(control, "leaves", "drain", {"deadlineS": 600}),
        )
        runs |= burst
        there |= {one["runId"] for one in asked["node"]["leases"]}
        async with watched(control, "leaves", "--json") as watching:
            ends = asyncio.ensure_future(held(control, "leaves", len(STUCK)))
            while not ends.done():
                batch = await sent(control, [f"LOAD-{len(runs) + number}" for number in range(3)])
                runs |= batch
                await control.ended_of(batch)
            await ends

            await ask(control, "stays", "cordon")  # what is handed back waits until we look
            await ask(control, "leaves", "drain", {"deadlineS": 0})
            async with asyncio.timeout(60):
                out, _ = await watching.communicate()

        assert watching.returncode == 0
        report = json.loads(out)
        assert (report["drained"], report["node"]["state"]) == (True, "drained")
        await control.put("/_target/script", {"rules": []}, "target")
        await ask(control, "stays", "uncordon")
        await judged(control, leaves, runs, there, report)
        await emptied(control.addresses["service_bus"], QUEUE)


async def judged(
    control: Bpa, leaves: Bpa, runs: dict[str, str], there: set[str], report: dict[str, Any]
) -> None:
    """Hold what control, node, model and target say of it against each other."""
    ended = await control.ended_of(runs)
    by_invoice = {runs[trace_id]: run for trace_id, run in ended.items()}
    assert {run["status"] for run in ended.values()} == {"completed"}
    handed_back = {by_invoice[one]["runId"] for one in STUCK}
    assert set(report["handedBack"]) == handed_back, report
    assert len(there) >= len(STUCK) + len(ENDS_BY_ITSELF)

    executed = {line["run_id"] for line in leaves.log_lines() if line["event"] == "execution_ended"}
    assert executed == there, "no lease after the answer, and each that it had came to an end"
    for invoice_id, run in by_invoice.items():
        whole = await control.run_of(run["traceId"])
        moved = invoice_id in STUCK
        assert whole["executions"] == (2 if moved else 1), invoice_id
        wrong = [whole[name] for name in ("agentFailures", "crashes", "infraFailures")]
        assert wrong == [0, 0, 0], "a hand-back costs nothing"
        on = "leaves" if run["runId"] in there - handed_back else "stays"
        assert whole["nodeId"] == on
        replayed = [step["seq"] for step in whole["steps"] if step["replays"]]
        assert replayed == ([0] if invoice_id in STUCK_AT_TARGET else []), invoice_id

    entries = (await control.get("/_stub/ledger", "anthropic"))["entries"]
    paid = [one["invoice_id"] for one in entries if one["outcome"] == "tool_use"]
    assert sorted(paid) == sorted(by_invoice), "one answer for each, and none was paid for again"
    assert [one["outcome"] for one in entries].count("gone") == len(STUCK_AT_MODEL)
    received = [item["body"]["run_id"] for item in await control.received()]
    assert sorted(received) == sorted(run["runId"] for run in ended.values())


async def test_a_drained_node_stays_so_over_restarts_until_it_is_taken_back(fleet: Fleet) -> None:
    async with fleet.governed() as control:
        await fleet.deploy(QUEUE, ["aus-east"])
        async with fleet.node("only", "aus-east") as only:
            await control.put("/_stub/script", {"rules": [{"latency_ms": 600_000}]}, "anthropic")
            interrupted = await sent(control, ["INTERRUPTED"])
            await held(control, "only", 1)
            async with watched(control, "only") as watching:
                watching.send_signal(signal.SIGINT)
                async with asyncio.timeout(20):
                    _, told = await watching.communicate()
                assert watching.returncode == 130
                assert b"only drains on: `bpa drain only` watches it again" in told
            await control.put("/_stub/script", {"rules": []}, "anthropic")
            code, out, err = await bpa(control, "drain", "only", "--force")
            assert (code, out) == (
                0,
                "only is drained (1 run handed back); it stays cordoned until "
                "`bpa uncordon only`\n",
            )
            assert "only drains already; its deadline moves to" in err
            assert {"node_cordoned", "drain_deadline_passed"} <= await logged(
                only, "node_drain_asked"
            )
        ports = {
            "control.grpc_port": control.addresses["grpc"].rpartition(":")[2],
            "control.http_port": control.addresses["http"].rpartition(":")[2],
        }
        assert await control.stop() == 0
    async with fleet.governed(**ports) as control, fleet.node("only", "aus-east") as only:
        assert {"node_cordoned", "node_drain_asked"} <= await logged(only, "node_drain_asked")
        runs = interrupted | await sent(control, ["WAITS"])

        async def told() -> bool:
            run = await control.run_of(next(iter(interrupted)))
            assert run["waitingReason"] == "every node is draining: only draining"
            return True

        await eventually(told, within_s=10, every_s=0.1)
        code, out, _ = await bpa(control, "nodes", "list")
        assert code == 0
        assert "drained" in out
        async with (
            aiohttp.ClientSession(only.addresses["node_health"]) as session,
            session.get("/readyz") as response,
        ):
            assert response.status == 503

        code, out, err = await bpa(control, "uncordon", "only")
        assert (code, out) == (0, "only gets leases again\n")
        assert "is called off; 0 runs on it" in err
        ended = await control.ended_of(runs)
        came = {(runs[trace], run["status"], run["executions"]) for trace, run in ended.items()}
        assert came == {("INTERRUPTED", "completed", 2), ("WAITS", "completed", 1)}
        code, out, _ = await bpa(control, "cordon", "only", "--json")
        assert (code, json.loads(out)["node"]["state"]) == (0, "cordoned")
        assert (await bpa(control, "drain", "nobody"))[0] == 3


async def test_a_second_signal_ends_a_node_that_drains_by_itself_and_a_control(
    fleet: Fleet,
) -> None:
    async with fleet.governed() as control:
        await fleet.deploy(QUEUE, ["aus-east"])
        await control.put("/_stub/script", {"rules": [{"latency_ms": 600_000}]}, "anthropic")
        async with fleet.node("only", "aus-east") as only:
            runs = await sent(control, ["CUT-OFF"])
            [lease] = await held(control, "only", 1)
            family = only.family()
            only.process.send_signal(signal.SIGTERM)
            await logged(only, "node_draining")
            assert only.process.returncode is None, "the first waits for what runs"
            only.process.send_signal(signal.SIGTERM)
            assert await only.process.wait() == 143
            await nobody_lives(family)
            run = await control.run_of(next(iter(runs)))
            assert (run["status"], run["leaseEpoch"]) == ("running", lease["epoch"]), "not handed"
        await control.put("/_stub/script", {"rules": []}, "anthropic")
        async with fleet.node("only", "aus-east"):
            [run] = (await control.ended_of(runs)).values()
            assert (run["status"], run["executions"]) == ("completed", 2)
            assert (await control.run_of(next(iter(runs))))["infraFailures"] == 1
        control.process.send_signal(signal.SIGSTOP)
        control.process.send_signal(signal.SIGTERM)
        control.process.send_signal(signal.SIGINT)  # both are there when it goes on
        control.process.send_signal(signal.SIGCONT)
        assert await control.process.wait() in (130, 143)
        assert "ended_at_once" in control.log_text()


async def logged(node: Bpa, event: str) -> set[str]:
    """Wait until a node has logged an event; return all events that it has logged."""

    def probe() -> set[str]:
        events = {line["event"] for line in node.log_lines()}
        assert event in events
        return events

    return await eventually(probe)
