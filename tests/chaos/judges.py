"""What came of the messages, by the accounts of those outside of the product.

The broker says which messages are left and which it dead-lettered, the target what it applied and
under which keys and bodies it was asked, the model stub what it answered. Postgres is read by the
judge itself, to tell which run each of those belongs to, and what was recorded.
"""

from __future__ import annotations

import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg

from bpa.connectors.service_bus import DeadLetterReader
from tests.chaos.load import Load
from tests.chaos.servers import QUEUE, Servers
from tests.chaos.watch import Watch, rows

ENDED = ("completed", "dead_lettered")
_PRICES = tomllib.loads(Path("config/prices.toml").read_text("utf-8"))["models"]
_KINDS = {
    "input_tokens": "input",
    "output_tokens": "output",
    "cache_read_tokens": "cache_read",
    "cache_write_tokens": "cache_write",
}
"""The kinds of tokens in the stub's account, as prices.toml calls them."""
_RUNS = """
select
    runs.run_id::text as run_id,
    coalesce(replay.message_id, input_ref ->> 'message_id') as message_id,
    coalesce(replay.replay_number, 0) as replay_number,
    (
        select n.run_id::text from replays as following join runs as n using (run_id)
        where following.replayed_run_id = runs.run_id
    ) as replayed_as,
    status,
    reason,
    detail,
    runs.effect_key,
    executions,
    infra_failures,
    waiting_reason,
    (select count(*) from deliveries as d where d.run_id = runs.run_id) as deliveries,
    (select count(*) from leases as l where l.run_id = runs.run_id) as leases
from runs left join replays as replay on replay.run_id::text = input_ref ->> 'message_id'
where coalesce(replay.message_id, input_ref ->> 'message_id') like %(prefix)s
"""
"""A replay's message has its run's id as message id: a run of such a message is told by that, also
one that should not be there."""
_STEPS = """
select
    steps.run_id::text as run_id,
    seq,
    digest,
    inherited_from is not null as inherited,
    answer is not null as known,
    length(answer) > 0 as answered,
    coalesce(input_tokens + output_tokens + cache_read_tokens + cache_write_tokens, 0) as tokens,
    steps.cost_usd as usd,
    reserved_tokens,
    coalesce(reserved_usd, 0) as reserved_usd
from steps join runs using (run_id)
left join replays as replay on replay.run_id::text = input_ref ->> 'message_id'
where steps.kind = 'model'
    and coalesce(replay.message_id, input_ref ->> 'message_id') like %(prefix)s
order by steps.run_id, seq
"""


@dataclass(slots=True)
class Verdict:
    """What must not be, and the figures of what was."""

    violations: list[str] = field(default_factory=list)
    figures: dict[str, int | float] = field(default_factory=dict)

    def must(self, is_so: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as a sentence
        """Note ``otherwise`` as a violation unless it is so."""
        if not is_so:
            self.violations.append(otherwise)


@dataclass(frozen=True, slots=True)
class Remainder:
    """What is not finished yet."""

    in_queue: int
    living: list[tuple[str, str, str | None]]
    """Message id, status and why it waits, of runs that have not ended."""
    missing: int
    """Messages that the broker took and that have no run."""

    @property
    def is_nothing(self) -> bool:
        """Whether all is done."""
        return not (self.in_queue or self.living or self.missing)


async def remainder(servers: Servers, load: Load, prefix: str) -> Remainder:
    """Say what of a load is still to be done."""
    try:
        runs = await rows(servers.postgres.dsn, _RUNS, prefix=prefix + "%")
    except psycopg.OperationalError as error:
        raise AssertionError(f"Postgres does not answer the judge: {error}") from error
    (queue,) = (await servers.get(f"{servers.bus_admin_url}/queues"))["queues"]
    living = [(r["message_id"], r["status"], r["waiting_reason"]) for r in runs]
    return Remainder(
        in_queue=queue["active"] + queue["locked"],
        living=[one for one in living if one[1] not in ENDED],
        missing=len(load.accepted - {r["message_id"] for r in runs}),
    )


async def judge(servers: Servers, load: Load, watch: Watch, prefix: str) -> Verdict:
    """Hold all accounts against each other."""
    verdict = Verdict()
    runs = await rows(servers.postgres.dsn, _RUNS, prefix=prefix + "%")
    _one_place(verdict, load, runs)
    _dead_letters(verdict, runs, await _letters(servers, prefix))
    _effects(verdict, runs, await _tries(servers))
    steps = await rows(servers.postgres.dsn, _STEPS, prefix=prefix + "%")
    entries = await _billed(servers, prefix)
    _paid_once(verdict, runs, steps, Counter(entry["invoice_id"] for entry in entries))
    _accounted(verdict, steps, entries)
    verdict.violations += sorted(watch.violations)
    verdict.must(watch.looks >= 5, f"epochs and slots were looked at {watch.looks} times only")
    verdict.figures |= {
        "redeliveries": sum(run["deliveries"] for run in runs) - len(runs),
        "second executions": sum(max(0, run["executions"] - 1) for run in runs),
        "leases lost by runs": sum(run["infra_failures"] for run in runs),
        "most slots used": max(watch.most_slots.values(), default=0),
        **{name: watch.counted[name] for name in ("leases expired", "fenced reports")},
        "answers replayed": watch.counted["answers replayed"],
    }
    return verdict


def _one_place(verdict: Verdict, load: Load, runs: list[dict[str, Any]]) -> None:
    """I1 and I2: accepted = completed + dead-lettered; one message, one run."""
    by_message = Counter(run["message_id"] for run in runs if not run["replay_number"])
    replays = Counter((r["message_id"], r["replay_number"]) for r in runs if r["replay_number"])
    for (invoice_id, number), there in replays.items():
        verdict.must(there == 1, f"replay {number} of {invoice_id} has {there} runs")
    for invoice_id in sorted(load.accepted):
        most = 1 + load.unanswered[invoice_id]
        there = by_message[invoice_id]
        verdict.must(1 <= there <= most, f"{invoice_id} has {there} runs, 1 to {most} are right")
    strange = set(by_message) - load.accepted
    verdict.must(not strange, f"runs of messages that nobody sent: {sorted(strange)[:5]}")
    ended = Counter(run["status"] for run in runs)
    verdict.must(set(ended) <= set(ENDED), f"runs that have not ended: {dict(ended)}")
    held = [run["run_id"] for run in runs if run["leases"]]
    verdict.must(not held, f"leases of runs that have ended: {held[:5]}")
    verdict.figures |= {
        "accepted": len(load.accepted),
        "sends without an answer": sum(load.unanswered.values()),
        "completed": ended["completed"],
        "dead-lettered": ended["dead_lettered"],
        "replays": sum(replays.values()),
    }


def _dead_letters(
    verdict: Verdict, runs: list[dict[str, Any]], letters: dict[str, list[str]]
) -> None:
    """I1: what the broker calls dead is what Postgres calls so, for the same reason."""
    ended: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        if run["status"] == "dead_lettered" and run["replayed_as"] is None:
            ended[run["message_id"]].append(run["reason"])
    for message_id in sorted(letters.keys() | ended.keys()):
        there, here = letters.get(message_id, []), ended[message_id]
        told = f"{message_id}: dead at the broker {there}, in Postgres {here}"
        verdict.must(sorted(there) == sorted(here), told)
    reasons = Counter(f"{r['reason']}: {r['detail']}" for r in runs if r["reason"])
    for reason, count in reasons.items():
        verdict.figures[f"dead: {reason[:120]}"] = count


def _effects(
    verdict: Verdict, runs: list[dict[str, Any]], tries: dict[str, dict[str, Any]]
) -> None:
    """I4: one key and one body for the effect of a run and its replays, which is applied once."""
    by_run: dict[str, list[str]] = defaultdict(list)
    for key in tries:
        by_run[key.partition(":")[0]].append(key)
    family = Counter(run["effect_key"] for run in runs if run["status"] == "completed")
    repeated = replayed = 0
    for run in runs:
        keys = by_run[run["run_id"]]
        verdict.must(set(keys) <= {run["effect_key"]}, f"{run['run_id']} used the keys {keys}")
        if run["replay_number"]:
            continue  # judged with its original, whose key it has
        applied = [key for key in keys if tries[key]["applied"]]
        wanted = family[run["effect_key"]]
        told = f"{run['run_id']} {run['status']}: applied {len(applied)} times"
        verdict.must(len(applied) == wanted, told)
        for key in keys:
            bodies = tries[key]["bodies"]
            verdict.must(bodies == 1, f"{key} came with {bodies} bodies")
            repeated += tries[key]["tries"] - 1
            outcomes = tries[key]["outcomes"]
            replayed += outcomes.get("replayed", 0)
            twice = outcomes.get("applied", 0) + outcomes.get("dropped:after", 0)
            verdict.figures["applied, answer lost"] = verdict.figures.get(
                "applied, answer lost", 0
            ) + max(0, twice - outcomes.get("applied", 0))
    verdict.figures |= {
        "requests repeated at the target": repeated,
        "duplicates absorbed by the target": replayed,
    }


def _paid_once(
    verdict: Verdict,
    runs: list[dict[str, Any]],
    steps: list[dict[str, Any]],
    answers: Counter[str],
) -> None:
    """A recorded answer is never paid for again; a call without a recorded answer is known."""
    invoice_of = {run["run_id"]: run["message_id"] for run in runs}
    calls: Counter[str] = Counter()
    recorded: Counter[str] = Counter()
    answered: set[tuple[str, str]] = set()
    again = unknown = 0
    for step in steps:
        invoice_id = invoice_of[step["run_id"]]
        if step["inherited"]:
            answered.add((step["run_id"], step["digest"]))
            continue
        calls[invoice_id] += 1
        again += (step["run_id"], step["digest"]) in answered
        unknown += not step["known"]
        if step["answered"]:
            recorded[invoice_id] += 1
            answered.add((step["run_id"], step["digest"]))
    for invoice_id, paid in answers.items():
        told = f"{invoice_id}: {paid} answers paid, {calls[invoice_id]} calls in the journal"
        verdict.must(paid <= calls[invoice_id], told)
    for invoice_id, known in recorded.items():
        told = f"{invoice_id}: {known} answers recorded, {answers[invoice_id]} were given"
        verdict.must(known <= answers[invoice_id], told)
    verdict.must(again == 0, f"{again} recorded answers were paid for again")
    verdict.figures |= {
        "model answers paid": sum(answers.values()),
        "model answers recorded": sum(recorded.values()),
        "recorded answers paid again": again,
        "unknown calls": unknown,
    }


def _accounted(
    verdict: Verdict, steps: list[dict[str, Any]], entries: list[dict[str, Any]]
) -> None:
    """The model's own account lies between ours and ours with the unknown calls, in USD as well.

    To the last digit: where no call is unknown the three are one.
    """
    own = [step for step in steps if not step["inherited"]]
    lost = [step for step in own if not step["known"]]
    for unit, ours, at_most, theirs in (
        ("tokens", "tokens", "reserved_tokens", sum(map(_tokens, entries))),
        ("USD", "usd", "reserved_usd", sum(map(_usd, entries), Decimal(0))),
    ):
        sums = sum(Decimal(step[ours]) for step in own)
        unknown = sum(Decimal(step[at_most]) for step in lost)
        told = f"the model's account has {theirs} {unit}, ours {sums} and at most {unknown} unknown"
        verdict.must(sums <= theirs <= sums + unknown, told)
        verdict.figures |= {
            f"{unit} billed": float(theirs),
            f"{unit} recorded": float(sums),
            f"{unit} unknown at most": float(unknown),
        }


def _tokens(entry: dict[str, Any]) -> int:
    return sum(int(entry[kind]) for kind in _KINDS)


def _usd(entry: dict[str, Any]) -> Decimal:
    price = _PRICES[entry["model"]]
    each = (Decimal(price[priced_as]) * entry[kind] for kind, priced_as in _KINDS.items())
    return sum(each, Decimal(0)) / 1_000_000


async def _letters(servers: Servers, prefix: str) -> dict[str, list[str]]:
    letters: dict[str, list[str]] = defaultdict(list)
    reader = DeadLetterReader(servers.bus_by(servers.bus_port), QUEUE)
    for letter in await reader.peek(10_000):
        properties = letter.message.properties
        message_id = str(properties.get("x-original-message-id", letter.message.message_id))
        if message_id.startswith(prefix):
            letters[message_id].append(letter.reason)
    return letters


async def _tries(servers: Servers) -> dict[str, dict[str, Any]]:
    tries: dict[str, dict[str, Any]] = {}
    cursor: str | None = "0"
    while cursor is not None:
        url = f"{servers.target_url}/_target/tries?limit=1000&cursor={cursor}"
        page = await servers.get(url)
        tries |= {item["key"]: item for item in page["items"]}
        cursor = page["next_cursor"]
    return tries


async def _billed(servers: Servers, prefix: str) -> list[dict[str, Any]]:
    """Return what the model stub answered: its maker would bill for that, heard or not."""
    entries: Iterable[dict[str, Any]] = (await servers.get(f"{servers.model_url}/_stub/ledger"))[
        "entries"
    ]
    return [
        entry
        for entry in entries
        if entry["status"] == 200
        and entry["outcome"] != "counted"
        and entry["invoice_id"].startswith(prefix)
    ]
