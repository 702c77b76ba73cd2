"""What a new execution goes on from, when a node was killed in the middle of a step."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.e2e.fleet import Fleet, backing
from tests.e2e.queues import dead_letters, documents, emptied, send_documents
from tests.e2e.server import Bpa, nobody_lives
from tests.eventually import eventually

SENT, ONCE, OTHERWISE, THINKING = "effect-sent", "effect-once", "diverging", "model-asked"
SLOW = "effect-in-flight"
QUEUES = (SENT, ONCE, OTHERWISE, THINKING, SLOW)
CHOSEN = dict(
    zip(QUEUES, [d for d in documents() if d.content_type == "application/json"], strict=False)
)
NEW_INSTRUCTIONS = """
update agent_versions set spec = jsonb_set(spec, '{instructions}', '"Decide otherwise."')
where agent_id = %s
"""


@pytest.fixture
async def fleet(tmp_path: Path, made_cluster: Path) -> AsyncIterator[Fleet]:
    """A fleet that is not started yet, with its stores and doubles."""
    async with backing(tmp_path, made_cluster, QUEUES) as servers:
        yield Fleet(tmp_path, await servers.settings(), servers.local)


async def hold_each_run_in_its_step(control: Bpa) -> None:
    """Have the target and the model take longer than a node will live."""
    number = {queue: document.expected["invoice_id"] for queue, document in CHOSEN.items()}
    pause = {"status": 503, "retry_after_s": 30, "times": 1}
    target = [
        {"match": {"invoice_id": number[SENT]}, **pause},
        {"match": {"invoice_id": number[ONCE]}, "latency_ms": 6_000, "times": 1},
        {"match": {"invoice_id": number[OTHERWISE]}, **pause},
        {"match": {"invoice_id": number[SLOW]}, "latency_ms": 12_000, "times": 1},
    ]
    model = [{"match": {"contains": number[THINKING]}, "latency_ms": 6_000, "times": 1}]
    await control.put("/_target/script", {"rules": target}, "target")
    await control.put("/_stub/script", {"rules": model}, "anthropic")


async def in_the_middle(control: Bpa, traces: dict[str, str]) -> bool:
    """Say whether each run is where its node is to be killed."""
    runs = {queue: await control.run_of(trace_id) for queue, trace_id in traces.items()}
    tried = {key.partition(":")[0] for key in await control.tries()}
    assert {run["status"] for run in runs.values()} == {"running"}
    states = {queue: [step["state"] for step in run["steps"]] for queue, run in runs.items()}
    assert states == {
        queue: ["in_flight"] if queue == THINKING else ["recorded", "in_flight"] for queue in QUEUES
    }
    return {runs[queue]["runId"] for queue in QUEUES if queue != THINKING} <= tried


async def test_a_new_execution_goes_on_from_the_journal_of_the_one_that_was_killed(
    fleet: Fleet,
) -> None:
    async with fleet.governed() as control, fleet.node("first", "aus-east") as first:
        for queue in QUEUES:
            spec = {"httpOut": {"idempotent": False}} if queue == ONCE else {}
            await fleet.deploy(queue, ["aus-east"], **spec)
        await hold_each_run_in_its_step(control)
        bus = control.addresses["service_bus"]
        traces = {q: (await send_documents(bus, [d], q))[0] for q, d in CHOSEN.items()}
        await eventually(lambda: in_the_middle(control, traces), within_s=20, every_s=0.05)
        await nobody_lives(await first.kill())
        async with await psycopg.AsyncConnection.connect(
            fleet.settings["postgres.dsn"], autocommit=True
        ) as connection:
            changed = await connection.execute(NEW_INSTRUCTIONS, [f"classifier-{OTHERWISE}"])
            assert changed.rowcount == 1

        async with fleet.node("second", "aus-east"):
            await control.ended_of(traces.values())
            for queue in QUEUES:
                await emptied(bus, queue, within_s=10)
            runs = {queue: await control.run_of(trace) for queue, trace in traces.items()}
            assert {run["executions"] for run in runs.values()} == {2}
            await check_what_was_sent_twice_under_one_key(control, runs[SENT])
            await check_what_must_not_be_sent_twice(control, runs[ONCE])
            await check_the_one_that_diverged(control, runs[OTHERWISE])
            await check_the_lost_call(control, runs[THINKING])
            await check_the_one_in_flight(control, runs[SLOW])


async def check_what_was_sent_twice_under_one_key(control: Bpa, run: dict[str, Any]) -> None:
    """The model was asked once, the effect sent again with its bytes; the cost counts once."""
    assert (run["status"], run["unknownCalls"]) == ("completed", 0)
    tried = (await control.tries())[run["effectKey"]]
    assert (tried["tries"], tried["bodies"], tried["applied"]) == (2, 1, True)
    model, effect = run["steps"]
    assert (model["state"], model["replays"]) == ("recorded", 1)
    assert (effect["state"], effect["replays"]) == ("recorded", 0)
    assert run["costUsd"] == model["costUsd"]
    assert await answers(control, SENT) == 1
    shown = await show(control, run)
    assert "replayed" in shown
    assert "unknown calls" not in shown


async def check_what_must_not_be_sent_twice(control: Bpa, run: dict[str, Any]) -> None:
    """One try, by the node that died over it."""
    assert (run["status"], run["reason"]) == ("dead_lettered", "OutcomeUnknown"), run["detail"]
    assert (await control.tries())[run["effectKey"]]["tries"] == 1
    assert [step["state"] for step in run["steps"]] == ["recorded", "unanswered"]
    letter = (await dead_letters(control.addresses["service_bus"], ONCE))[run["traceId"]]
    assert letter.reason == "OutcomeUnknown"
    assert "look there whether the effect was applied" in letter.description


async def check_the_one_that_diverged(control: Bpa, run: dict[str, Any]) -> None:
    """Another request before a recorded intent: neither the model nor the target hears of it."""
    assert (run["status"], run["reason"]) == ("dead_lettered", "AgentError"), run["detail"]
    assert "diverged after an effect" in run["detail"]
    tried = (await control.tries())[run["effectKey"]]
    assert (tried["tries"], tried["applied"]) == (1, False)
    assert await answers(control, OTHERWISE) == 1


async def check_the_lost_call(control: Bpa, run: dict[str, Any]) -> None:
    """The call is unknown, counted, and made again; both account for the provider's ledger."""
    assert (run["status"], run["unknownCalls"]) == ("completed", 1)
    lost, asked, _ = run["steps"]
    assert [lost["state"], asked["state"], lost["usage"]] == ["unknown", "recorded", None]
    assert run["costs"]["unknown_tokens"] == lost["reservedTokens"] > 0
    spent = sum(e["input_tokens"] + e["output_tokens"] for e in await entries(control, THINKING))
    assert len(await entries(control, THINKING)) == 2
    assert run["tokensUsed"] <= spent <= run["tokensUsed"] + lost["reservedTokens"]
    totals = await control.get("/v1/totals")
    assert sum(total["unknownCalls"] for total in totals) == 1
    shown = await show(control, run)
    assert f"1, of {lost['reservedTokens']:,} tokens at most" in shown
    states = [step["state"] for step in json.loads(await show(control, run, "--json"))["steps"]]
    assert states == ["unknown", "recorded", "recorded"]


async def check_the_one_in_flight(control: Bpa, run: dict[str, Any]) -> None:
    """The target still worked on the killed node's request: it was waited for, as no failure."""
    assert run["status"] == "completed", run["detail"]
    tried = (await control.tries())[run["effectKey"]]
    assert tried["outcomes"].pop("in_flight:409") >= 1
    assert (tried["outcomes"], tried["bodies"]) == ({"applied": 1, "replayed": 1}, 1)
    assert run["outcome"]["tries"] == 1


async def show(control: Bpa, run: dict[str, Any], *words: str) -> str:
    """What ``bpa runs show`` prints."""
    url = f"control.url={control.addresses['http']}"
    code, shown, error = await control.run("--set", url, "runs", "show", run["runId"], *words)
    assert code == 0, error
    return shown


async def entries(control: Bpa, queue: str) -> list[dict[str, Any]]:
    """What the model stub noted of a queue's document; counting tokens is free."""
    ledger = await control.get("/_stub/ledger", "anthropic")
    number = CHOSEN[queue].expected["invoice_id"]
    return [
        entry
        for entry in ledger["entries"]
        if entry["invoice_id"] == number and entry["endpoint"] == "/v1/messages"
    ]


async def answers(control: Bpa, queue: str) -> int:
    """How often the model was asked about a queue's document."""
    return len(await entries(control, queue))
