"""kill -9 of everything in the middle of the work, and a start on the same data directory."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.queues import Document, dead_letters, documents, emptied, send_documents
from tests.e2e.server import ENDED, Bpa, nobody_lives, serving
from tests.e2e.test_invoices import check_payload
from tests.eventually import eventually

MESSAGES = 100
SETTINGS = {
    "control.lease_ttl_s": "3",
    "control.heartbeat_every_s": "0.5",
    "embedded.model_latency_ms": "20",
}


def hundred() -> list[Document]:
    return list(itertools.islice(itertools.cycle(documents()), MESSAGES))


async def killed_in_the_middle(server: Bpa, completed: int) -> list[dict[str, Any]]:
    """Kill the server once so many runs have completed; return the runs as they last were."""

    async def probe() -> list[dict[str, Any]]:
        runs = await server.runs()
        done = sum(run["status"] == "completed" for run in runs)
        assert done >= completed, done
        return runs

    runs = await eventually(probe, within_s=60, every_s=0.01)
    family = await server.kill()
    assert len(family) >= 7, "bpa, Postgres, Valkey, emulator, stub, target and zygote lived"
    await nobody_lives(family)
    return runs


async def the_account_balances(server: Bpa, sent: list[str], chosen: list[Document]) -> None:
    """Check that each message ended once, and that the target applied each once."""
    bus = server.addresses["service_bus"]
    runs = await server.ended_of(sent, within_s=90)
    await emptied(bus, within_s=30)

    every = await server.runs()
    assert len(every) == len(sent), "a message has one run, however often it was delivered"
    assert [run for run in every if run["status"] not in ENDED] == []
    assert [run["reason"] for run in every if run["reason"]] == []
    assert await dead_letters(bus) == {}
    posts: dict[str, list[dict[str, Any]]] = {}
    for item in await server.received():
        posts.setdefault(item["body"]["run_id"], []).append(item)
    assert len(posts) == len(sent)
    for trace_id, document in zip(sent, chosen, strict=True):
        (post,) = posts[runs[trace_id]["runId"]]
        check_payload(runs[trace_id], post["body"], document)
        assert post["key"].startswith(runs[trace_id]["runId"] + ":")
        assert post["bodies"] == 1
    tries = await server.tries()
    assert len(tries) == len(sent)
    assert {sent["bodies"] for sent in tries.values()} == {1}


@pytest.mark.parametrize("moments", [[1], [30, 60]])
async def test_kills_of_everything_amid_100_invoices_lose_none_and_double_none(
    old_data_dir: Path, moments: list[int]
) -> None:
    chosen = hundred()
    sent: list[str] = []
    ended_at: dict[str, str] = {}
    for completed in moments:
        async with serving(old_data_dir, **SETTINGS) as server:
            sent = sent or await send_documents(server.addresses["service_bus"], chosen)
            runs = await killed_in_the_middle(server, completed)
            ended_at = {r["runId"]: r["endedAt"] for r in runs if r["status"] == "completed"}
            assert completed <= len(ended_at) < MESSAGES, "not in the middle"

    async with serving(old_data_dir, **SETTINGS) as server:
        await the_account_balances(server, sent, chosen)
        after = {run["runId"]: run["endedAt"] for run in await server.runs()}
        assert after == after | ended_at, "what was completed stays as it was"
