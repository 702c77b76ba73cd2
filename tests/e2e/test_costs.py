"""Our ledger and the model's own account of the same calls, to the cent."""

from __future__ import annotations

import json
import signal
import tomllib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.fleet import ROOT, Fleet, backing
from tests.e2e.queues import Document, dead_letters, documents, emptied, send_documents
from tests.e2e.server import Bpa, nobody_lives
from tests.eventually import eventually

LISTED, STRANGE = "claude-haiku-4-5", "house-model"
QUEUES = {"ledger-listed": LISTED, "ledger-strange": STRANGE}
PRICES = tomllib.loads((ROOT / "config/prices.toml").read_text("utf-8"))["models"]
KINDS = {
    "inputTokens": ("input_tokens", "input"),
    "outputTokens": ("output_tokens", "output"),
    "cacheReadTokens": ("cache_read_tokens", "cache_read"),
    "cacheWriteTokens": ("cache_write_tokens", "cache_write"),
}
"""A kind of tokens as REST calls it: its name in the stub's account and in prices.toml."""
EACH = 12


@dataclass(slots=True)
class Account:
    """What some calls used and cost."""

    tokens: Counter[str] = field(default_factory=Counter)
    usd: Decimal = Decimal(0)
    unpriced: int = 0
    calls: int = 0

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Account)
        return (+self.tokens, self.usd, self.unpriced, self.calls) == (
            +other.tokens,
            other.usd,
            other.unpriced,
            other.calls,
        )

    def add(self, entry: dict[str, Any]) -> None:
        """Add a request of the stub's ledger, at the price of prices.toml."""
        self.calls += 1
        price = PRICES.get(entry["model"])
        for kind, (name, priced_as) in KINDS.items():
            self.tokens[kind] += entry[name]
            if price:
                self.usd += Decimal(price[priced_as]) * entry[name] / 1_000_000
            else:
                self.unpriced += entry[name]


def accounts(
    entries: Iterable[dict[str, Any]], key: Callable[[dict[str, Any]], Any]
) -> dict[Any, Account]:
    """The model's own account, by whatever ``key`` makes of a request."""
    found: dict[Any, Account] = {}
    for entry in entries:
        found.setdefault(key(entry), Account()).add(entry)
    return found


def ours(cost: dict[str, Any]) -> Account:
    """A line of our ledger; USD are decimal strings."""
    assert isinstance(cost["costUsd"], str)
    tokens = Counter({kind: cost[kind] for kind in KINDS})
    return Account(tokens, Decimal(cost["costUsd"]), cost["unpricedTokens"], cost["calls"])


async def sums(control: Bpa, query: str) -> dict[Any, Account]:
    """Our ledger's sums by key; for attempts by run and epoch."""
    page = await control.get(f"/v1/costs?{query}&limit=1000")
    return {
        cost["key"] if cost["epoch"] is None else (cost["key"], cost["epoch"]): ours(cost)
        for cost in page["costs"]
    }


async def billed(control: Bpa) -> list[dict[str, Any]]:
    """What the model stub answered, which its maker would bill."""
    ledger = await control.get("/_stub/ledger", "anthropic")
    return [
        entry
        for entry in ledger["entries"]
        if entry["endpoint"] == "/v1/messages" and entry["status"] == 200
    ]


async def counters(*nodes: Bpa) -> Counter[tuple[str, str]]:
    """The nodes' metrics by name and model."""
    found: Counter[tuple[str, str]] = Counter()
    for node in nodes:
        async with (
            aiohttp.ClientSession(node.addresses["node_health"]) as session,
            session.get("/metrics") as response,
        ):
            lines = (await response.text()).splitlines()
        for line in lines:
            name, _, rest = line.partition("{")
            for model in QUEUES.values():
                if f'model="{model}"' in rest:
                    found[name, model] += float(line.rpartition(" ")[2])  # type: ignore[assignment]
    return found


@pytest.fixture
async def fleet(tmp_path: Path, made_cluster: Path) -> AsyncIterator[Fleet]:
    """A fleet that is not started yet, with its stores and doubles."""
    async with backing(tmp_path, made_cluster, list(QUEUES)) as servers:
        yield Fleet(tmp_path, await servers.settings(), servers.local)


async def deploy(fleet: Fleet) -> None:
    """One deployment whose model has a price, and one whose model has none."""
    for queue, model in QUEUES.items():
        await fleet.deploy(queue, ["aus-east"], model=model)


async def send(control: Bpa, chosen: dict[str, list[Document]]) -> dict[str, str]:
    """Send documents to their queues; return the trace of each invoice."""
    traces: dict[str, str] = {}
    for queue, docs in chosen.items():
        sent = await send_documents(control.addresses["service_bus"], docs, queue)
        traces |= {d.expected["invoice_id"]: t for d, t in zip(docs, sent, strict=True)}
    return traces


async def bpa(control: Bpa, *words: str) -> str:
    """What a command prints."""
    url = f"control.url={control.addresses['http']}"
    code, shown, error = await control.run("--set", url, *words)
    assert code == 0, error
    return shown


async def test_the_sums_are_those_of_the_model_s_own_account_by_every_grouping(
    fleet: Fleet,
) -> None:
    known = documents()
    chosen = {"ledger-listed": known[:EACH], "ledger-strange": known[EACH : 2 * EACH]}
    refused = known[0].expected["invoice_id"]
    async with (
        fleet.governed() as control,
        fleet.node("first", "aus-east") as first,
        fleet.node("second", "aus-east") as second,
    ):
        await deploy(fleet)
        script = [
            {"every": 5, "status": 529, "retry_after_s": 0.05},
            {"every": 2, "cache_read_tokens": 150, "cache_write_tokens": 35},
        ]
        await control.put("/_stub/script", {"rules": script}, "anthropic")
        target = [{"match": {"invoice_id": refused}, "status": 400}]
        await control.put("/_target/script", {"rules": target}, "target")
        traces = await send(control, chosen)
        runs = await control.ended_of(traces.values())
        ended = Counter(run["status"] for run in runs.values())
        assert ended == {"completed": 2 * EACH - 1, "dead_lettered": 1}
        await control.put("/_target/script", {"rules": []}, "target")
        heir = await replayed(control, runs[traces[refused]])

        entries = await billed(control)
        run_of = {number: runs[trace]["runId"] for number, trace in traces.items()}
        queue_of = {d.expected["invoice_id"]: queue for queue, docs in chosen.items() for d in docs}
        by = {
            "run": lambda e: run_of[e["invoice_id"]],
            "attempt": lambda e: (run_of[e["invoice_id"]], 1),
            "agent": lambda e: f"classifier-{queue_of[e['invoice_id']]}",
            "model": lambda e: e["model"],
        }
        for grouping, key in by.items():
            assert await sums(control, f"by={grouping}") == accounts(entries, key), grouping
        (by_day,) = (await sums(control, "by=day")).values()
        (total,) = accounts(entries, lambda _: None).values()
        assert by_day == total
        assert total.calls == 2 * EACH, "each invoice was paid for once, replays included"
        assert min(total.tokens.values()) > 0 < total.unpriced
        by_deployment = await sums(control, "by=deployment")
        assert sorted(map(repr, by_deployment.values())) == sorted(
            map(repr, accounts(entries, by["agent"]).values())
        )
        assert heir not in await sums(control, "by=run")
        await the_metrics_agree(await sums(control, "by=model"), first, second)
        await each_amount_can_be_computed_again(fleet, control)
        shown = await bpa(control, "costs")
        assert f"{total.unpriced:,}  no price: add it to prices.toml" in shown
        printed = json.loads(await bpa(control, "costs", "--by", "day", "--json"))
        assert Decimal(printed["total"]["costUsd"]) == total.usd


async def replayed(control: Bpa, run: dict[str, Any]) -> str:
    """Replay a run's dead letter; return the run that completed it."""

    async def buried() -> bool:
        letters = await dead_letters(control.addresses["service_bus"], "ledger-listed")
        assert run["traceId"] in letters
        return True

    await eventually(buried, within_s=20, every_s=0.2)
    told = json.loads(await bpa(control, "runs", "retry", run["runId"], "--json"))
    heir = told["replayed"]["runId"]

    async def completed() -> str:
        assert (await control.get(f"/v1/runs/{heir}"))["status"] == "completed"
        return str(heir)

    return await eventually(completed, within_s=20, every_s=0.2)


async def the_metrics_agree(by_model: dict[str, Account], *nodes: Bpa) -> None:
    """While no process died, /metrics of the nodes says the same."""
    counted = await counters(*nodes)
    for model, account in by_model.items():
        read = sum(account.tokens.values()) - account.tokens["outputTokens"]
        assert counted["tokens_in", model] == read
        assert counted["tokens_out", model] == account.tokens["outputTokens"]
        assert counted["bpa_unpriced_tokens_total", model] == account.unpriced
        assert counted["usd_cost", model] == pytest.approx(float(account.usd), abs=1e-9)


async def each_amount_can_be_computed_again(fleet: Fleet, control: Bpa) -> None:
    """From the tokens and the prices that stand in its own row."""
    for run in await control.runs():
        for step in (await control.get(f"/v1/runs/{run['runId']}"))["steps"]:
            price = (step["usage"] or {}).get("price")
            if price is None:
                assert Decimal(step["costUsd"]) == 0
                continue
            again = sum(
                Decimal(price[priced_as]) * step["usage"][name]
                for name, priced_as in KINDS.values()
            )
            paid = "0" if step["inheritedFrom"] else step["usage"]["cost_usd"]
            assert Decimal(step["costUsd"]) == Decimal(paid)
            assert Decimal(step["usage"]["cost_usd"]) == again / 1_000_000
            assert (price["source"], price["version"]) == (
                "Anthropic's public price list",
                "2026-11-01",
            )


async def test_with_lost_calls_the_sums_account_for_what_a_killed_node_was_billed_for(
    fleet: Fleet,
) -> None:
    """The node freezes, the model answers into its sockets, the node is killed."""
    known = documents()
    chosen = {"ledger-listed": known[:4], "ledger-strange": known[4:8]}
    async with fleet.governed() as control, fleet.node("first", "aus-east") as first:
        await deploy(fleet)
        slow = [{"latency_ms": 6_000, "times": 8}]
        await control.put("/_stub/script", {"rules": slow}, "anthropic")
        traces = await send(control, chosen)

        async def all_ask() -> bool:
            runs = {r["traceId"]: r for r in await control.runs()}
            steps = [await control.get(f"/v1/runs/{runs[t]['runId']}/steps") for t in runs]
            assert [[step["state"] for step in one] for one in steps] == [["in_flight"]] * 8
            return True

        await eventually(all_ask, within_s=20, every_s=0.05)
        first.process.send_signal(signal.SIGSTOP)

        async def all_billed() -> bool:
            assert len(await billed(control)) == 8
            return True

        await eventually(all_billed, within_s=10, every_s=0.1)
        family = await first.kill()
        await nobody_lives(family)
        async with fleet.node("second", "aus-east"):
            await control.ended_of(traces.values())
            for queue in QUEUES:
                await emptied(control.addresses["service_bus"], queue, within_s=10)
            page = await control.get("/v1/costs?by=model")
            theirs = accounts(await billed(control), lambda e: e["model"])
            for cost in page["costs"]:
                account, bill = ours(cost), theirs[cost["key"]]
                lost = bill.calls - account.calls
                assert (cost["unknownCalls"], lost) == (4, 4)
                used, spent = sum(account.tokens.values()), sum(bill.tokens.values())
                assert used < spent <= used + cost["unknownTokens"]
                most = account.usd + Decimal(cost["unknownUsd"])
                assert account.usd <= bill.usd <= most
                is_listed = cost["key"] == LISTED
                assert (account.usd < bill.usd) is is_listed
                assert cost["unknownUnpricedTokens"] == (0 if is_listed else cost["unknownTokens"])
            by_attempt = await control.get("/v1/costs?by=attempt")
            told = Counter(
                (cost["epoch"] > 1, cost["calls"], cost["unknownCalls"])
                for cost in by_attempt["costs"]
            )
            assert told == {(False, 0, 1): 8, (True, 1, 0): 8}
            shown = await bpa(control, "costs")
            assert "unknown calls  tokens at most" in shown
