"""The ledger's sums: every paid call once, what has no price and what was lost apart."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from bpa.control.costs import _QUERIES, _statement
from bpa.control.ledger import By, Chosen, each_of
from bpa.domain.executions import BudgetKind, Excess, Outcome, OutcomeKind
from bpa.domain.journal import ModelCall, Step, StepKind, Usage
from bpa.domain.runs import RunId
from bpa.errors import InvalidRequest, Reason
from tests.integration.control.fleet import AGENT, DEP_ID, PRICE, Fleet, arrival
from tests.integration.control.rest import Rest, rest_over

NOON = datetime(2026, 3, 12, 12, tzinfo=UTC)
MIDNIGHT = datetime(2026, 3, 13, tzinfo=UTC)
PAID = Usage(100, 20, 10, 5, cost_usd="0.000625", price=PRICE)
UNPRICED = Usage(7, 3, 2, 1, unpriced_tokens=13)
HANDED_BACK = Outcome(kind=OutcomeKind.HANDED_BACK)
COMPLETED = Outcome(kind=OutcomeKind.COMPLETED)
FAILED = Outcome(kind=OutcomeKind.REJECTED, reason=Reason.AGENT_ERROR)
LISTED, STRANGE = "listed-model", "strange-model"


def ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def intent(seq: int, model: str = LISTED, at: datetime = NOON, usd: str | None = "0.005") -> Step:
    call = ModelCall(provider="anthropic", model=model, max_tokens=400, reserved_usd=usd)
    return Step(
        seq=seq,
        kind=StepKind.MODEL,
        digest=f"d{seq}",
        reserved_tokens=900,
        started_at_ms=ms(at),
        call=call,
    )


def answered(step: Step, usage: Usage = PAID, after_s: float = 1.0) -> Step:
    return replace(
        step, answer=b"{}", usage=usage, ended_at_ms=step.started_at_ms + round(after_s * 1000)
    )


class Desk:
    """Reports for nodes, and reads the sums."""

    def __init__(self, fleet: Fleet, rest: Rest) -> None:
        self.fleet, self.rest = fleet, rest

    async def execute(self, run_id: RunId, *steps: Step, end: Outcome | None = COMPLETED) -> int:
        """Have an execution report steps and end; None leaves it at work."""
        epoch = await self.fleet.granted(run_id)
        await self.fleet.leases.acknowledge(run_id, epoch)
        for step in steps:
            await self.fleet.runs.record_step(run_id, epoch, step)
        if end is not None:
            await self.fleet.runs.finish(run_id, epoch, end)
        return epoch

    async def queued(self, number: int, **fields: object) -> RunId:
        return (await self.fleet.runs.receive(arrival(number, **fields))).run_id

    async def costs(self, query: str) -> dict[str, Any]:
        answer = await self.rest.get(f"/v1/costs{query}")
        assert answer.status == 200, answer.text
        return answer.json

    async def usd(self, query: str) -> dict[str | None, Decimal]:
        """USD by key; for attempts, by key and epoch."""
        costs = (await self.costs(query))["costs"]
        return {
            cost["key"] if cost["epoch"] is None else (cost["key"], cost["epoch"]): Decimal(
                cost["costUsd"]
            )
            for cost in costs
        }


@pytest.fixture
async def desk(fleet: Fleet) -> AsyncIterator[Desk]:
    await fleet.register()
    async with rest_over(fleet) as rest:
        yield Desk(fleet, rest)


async def test_the_same_calls_add_up_by_whatever_they_are_grouped(desk: Desk):
    first, other = await desk.queued(1), await desk.queued(2, agent_id="b", dep_id="b-dev")
    one = await desk.execute(first, answered(intent(0)), end=HANDED_BACK)
    two = await desk.execute(first, answered(intent(1)), answered(intent(2, STRANGE), UNPRICED))
    late = answered(intent(0, at=MIDNIGHT - timedelta(seconds=1)), after_s=2)
    await desk.execute(other, late)
    cent = Decimal(PAID.cost_usd)
    assert await desk.usd("?by=run") == {first: 2 * cent, other: cent}
    assert await desk.usd("?by=attempt") == {
        (first, one): cent,
        (first, two): cent,
        (other, 1): cent,
    }
    assert await desk.usd("?by=agent") == {"invoice-classifier": 2 * cent, "b": cent}
    assert await desk.usd("?by=deployment") == {DEP_ID: 2 * cent, "b-dev": cent}
    assert await desk.usd("?by=model") == await desk.usd("") == {LISTED: 3 * cent, STRANGE: 0}
    assert await desk.usd("?by=day") == {"2026-03-12": 2 * cent, "2026-03-13": cent}
    totals = [(await desk.costs(f"?by={by}"))["total"] for by in By]
    assert totals[0] == {
        "key": None,
        "epoch": None,
        "calls": 4,
        "inputTokens": 307,
        "outputTokens": 63,
        "cacheReadTokens": 32,
        "cacheWriteTokens": 16,
        "costUsd": "0.001875",
        "unpricedTokens": 13,
        "unknownCalls": 0,
        "unknownTokens": 0,
        "unknownUsd": "0",
        "unknownUnpricedTokens": 0,
        "completed": 2,
        "usdPerCompleted": "0.0009375",
    }
    assert totals == totals[:1] * len(totals)


async def test_what_is_asked_for_is_what_is_summed_up(desk: Desk):
    first, other = await desk.queued(1), await desk.queued(2, agent_id="b", dep_id="b-dev")
    await desk.execute(first, answered(intent(0)), answered(intent(1, STRANGE), UNPRICED))
    await desk.execute(other, answered(intent(0, at=MIDNIGHT)))
    cent = Decimal(PAID.cost_usd)
    assert await desk.usd("?agent=b") == {LISTED: cent}
    assert await desk.usd(f"?by=run&deployment={DEP_ID}") == {first: cent}
    assert await desk.usd(f"?by=agent&model={STRANGE}") == {"invoice-classifier": 0}
    assert await desk.usd("?by=day&since=2026-03-13T00:00:00Z") == {"2026-03-13": cent}
    assert await desk.usd("?by=day&until=2026-03-13T00:00:01Z") == {"2026-03-12": cent}
    nothing = await desk.costs("?agent=nobody")
    assert (nothing["costs"], nothing["total"]["costUsd"]) == ([], "0")


async def test_a_completed_invoice_costs_what_failed_before_it_too(desk: Desk):
    runs = [await desk.queued(number) for number in range(1, 5)]
    other = await desk.queued(5, agent_id="b", dep_id="b-dev")
    for run_id, end in zip(runs, (COMPLETED, COMPLETED, COMPLETED, FAILED), strict=True):
        await desk.execute(run_id, answered(intent(0)), end=end)
    await desk.execute(other, answered(intent(0)), end=FAILED)
    answer = await desk.costs("?by=deployment")
    each = {cost["key"]: (cost["completed"], cost["usdPerCompleted"]) for cost in answer["costs"]}
    assert each == {DEP_ID: (3, "0.000833333333"), "b-dev": (0, None)}
    assert (answer["total"]["completed"], answer["total"]["usdPerCompleted"]) == (
        3,
        "0.001041666667",
    )
    (of_b,) = (await desk.costs("?by=agent&agent=b"))["costs"]
    assert of_b["completed"] == 0
    (by_run, *_) = (await desk.costs("?by=run"))["costs"]
    assert (by_run["completed"], by_run["usdPerCompleted"]) == (None, None)
    later = await desk.costs("?by=agent&since=2999-01-01T00:00:00Z")
    assert (later["costs"], later["total"]["completed"]) == ([], 0)


async def test_completed_runs_count_for_the_model_of_their_agent_and_the_day_of_their_end(
    desk: Desk,
):
    run_id = await desk.queued(1)
    model = AGENT.model_profile.model
    now = datetime.now(UTC)
    await desk.execute(run_id, answered(intent(0, model, at=now), after_s=0))
    (by_model,) = (await desk.costs("?by=model"))["costs"]
    assert (by_model["key"], by_model["completed"]) == (model, 1)
    (by_day,) = (await desk.costs("?by=day"))["costs"]
    assert (by_day["key"], by_day["completed"]) == (f"{now:%Y-%m-%d}", 1)
    assert (await desk.costs(f"?model={model}"))["total"]["completed"] == 1
    assert (await desk.costs("?model=another"))["total"]["completed"] == 0


def test_usd_for_each_is_rounded_far_beyond_a_cent_and_never_written_with_an_exponent():
    assert each_of("1", 3) == "0.333333333333"
    assert each_of("0.000000000006", 2) == "0.000000000003"
    assert each_of("100", 1) == "100"
    assert each_of("0", 7) == "0"
    assert each_of("5", 0) is None


async def test_what_runs_used_of_their_budgets_is_told_beside_what_they_may(desk: Desk):
    async with desk.fleet.pool.connection() as connection:
        await connection.execute(
            "update deployments set target = jsonb_set(target, '{budgets,maxUsd}', '0.05')"
        )
    for number in range(1, 20):
        run_id = await desk.queued(number)
        usage = Usage(100 * number, 20, cost_usd=f"0.00{number:02}", price=PRICE)
        await desk.execute(run_id, answered(intent(0), usage))
    over = Outcome(
        kind=OutcomeKind.REJECTED,
        reason=Reason.BUDGET_EXCEEDED,
        excess=Excess(kind=BudgetKind.USD, limit="0.05", consumed="0.049", refused="0.002"),
    )
    await desk.execute(await desk.queued(20), end=over)
    late = replace(FAILED, reason=Reason.DEADLINE_EXCEEDED)
    await desk.execute(await desk.queued(21, agent_id="b", dep_id="b-dev"), end=late)
    answer = await desk.rest.get("/v1/budgets")
    assert answer.status == 200, answer.text
    ours, other = answer.json["deployments"]
    assert (ours["deploymentId"], ours["runs"]) == (DEP_ID, 20)
    assert ours["tokens"] == {
        "limit": "4000", "p50": "920", "p95": "1820", "max": "1920", "exceeded": 0,
    }  # fmt: skip
    assert ours["usd"] == {
        "limit": "0.05", "p50": "0.0009", "p95": "0.0018", "max": "0.0019", "exceeded": 1,
    }  # fmt: skip
    assert (ours["outOfCalls"], ours["outOfTime"]) == (0, 0)
    assert (other["deploymentId"], other["outOfTime"]) == ("b-dev", 1)
    assert (other["tokens"]["limit"], other["usd"]["limit"]) == (None, None)
    for query, expected in (
        ("?agent=b", ["b-dev"]),
        (f"?deployment={DEP_ID}", [DEP_ID]),
        ("?until=2020-01-01T00:00:00Z", []),
    ):
        shown = (await desk.rest.get(f"/v1/budgets{query}")).json["deployments"]
        assert [one["deploymentId"] for one in shown] == expected


async def test_a_lost_call_stands_apart_and_one_that_may_be_answered_nowhere(desk: Desk):
    run_id = await desk.queued(1)
    lost, strange = intent(0), intent(1, STRANGE, usd=None)
    await desk.execute(run_id, lost, strange, answered(intent(2)), intent(3), end=None)
    (by_run,) = (await desk.costs("?by=run"))["costs"]
    assert (by_run["calls"], by_run["unknownCalls"], by_run["unknownTokens"]) == (1, 2, 1800)
    assert (by_run["unknownUsd"], by_run["unknownUnpricedTokens"]) == ("0.005", 900)
    assert by_run["costUsd"] == PAID.cost_usd
    await desk.fleet.expire(run_id)
    await desk.fleet.leases.reap()
    by_model = {cost["key"]: cost for cost in (await desk.costs("?by=model"))["costs"]}
    assert by_model[LISTED]["unknownCalls"] == 2
    assert by_model[LISTED]["unknownUsd"] == "0.010"
    assert by_model[STRANGE]["unknownUnpricedTokens"] == 900
    run = await desk.fleet.history.get(run_id)
    assert run["costs"]["unknown_calls"] == 3
    (by_day,) = (await desk.costs("?by=day"))["costs"]
    assert (by_day["key"], by_day["unknownCalls"]) == ("2026-03-12", 3)


async def test_a_refused_call_an_effect_and_a_repeated_report_cost_nothing(desk: Desk):
    run_id = await desk.queued(1)
    refused = replace(intent(0), answer=b"", ended_at_ms=ms(NOON))
    effect = Step(
        seq=2, kind=StepKind.EFFECT, digest="e", intent=b"b", effect_key="k", answer=b"{}"
    )
    paid = answered(intent(1))
    await desk.execute(run_id, refused, paid, paid, effect)
    (cost,) = (await desk.costs("?by=attempt"))["costs"]
    assert (cost["calls"], cost["costUsd"], cost["unknownCalls"]) == (1, PAID.cost_usd, 0)


async def test_a_replayed_and_an_inherited_answer_are_not_counted_again(desk: Desk):
    original = await desk.queued(1)
    await desk.execute(original, answered(intent(0)), end=HANDED_BACK)
    await desk.execute(original, end=replace(FAILED, replayed=[0]))
    heir = await desk.queued(2, inherits_from=original)
    await desk.execute(heir, answered(intent(1)), end=replace(COMPLETED, replayed=[0]))
    assert await desk.usd("?by=attempt") == {
        (original, 1): Decimal(PAID.cost_usd),
        (heir, 1): Decimal(PAID.cost_usd),
    }


async def test_runs_and_attempts_come_a_page_at_a_time_newest_first(desk: Desk):
    runs = [await desk.queued(number) for number in range(1, 4)]
    for run_id in runs:
        await desk.execute(run_id, answered(intent(0)), end=HANDED_BACK)
        await desk.execute(run_id, answered(intent(1)))
    for by, expected in (
        ("run", [(run_id, None) for run_id in reversed(runs)]),
        ("attempt", [(run_id, epoch) for run_id in reversed(runs) for epoch in (2, 1)]),
    ):
        seen, page, path = [], {}, f"?by={by}&limit=2&since=2026-03-12T00:00:00%2B00:00"
        while path:
            answer = await desk.rest.get(f"/v1/costs{path}")
            page = answer.json
            seen += [(cost["key"], cost["epoch"]) for cost in page["costs"]]
            assert page["total"] is None
            link = answer.headers.get("Link", "")
            path = link.partition(">")[0].removeprefix("</v1/costs")
            assert bool(path) == (page["nextCursor"] is not None)
        assert seen == expected


@pytest.mark.parametrize(
    "query", ["?by=run&cursor=x", "?by=run&cursor=eHx5", "?by=day&cursor=eHx5"]
)
async def test_a_cursor_of_something_else_is_refused(desk: Desk, query: str):
    assert (await desk.rest.get(f"/v1/costs{query}")).status == 400


async def test_a_model_that_an_earlier_node_asked_is_counted_without_its_name(desk: Desk):
    run_id = await desk.queued(1)
    await desk.execute(run_id, replace(answered(intent(0)), call=None))
    assert await desk.usd("?by=model") == {None: Decimal(PAID.cost_usd)}


async def test_sums_are_exact_where_floats_are_not(desk: Desk):
    run_id = await desk.queued(1)
    tenth = replace(PAID, cost_usd="0.1")
    await desk.execute(run_id, *(answered(intent(seq), tenth) for seq in range(3)))
    sums = await desk.fleet.costs.sums(By.MODEL, Chosen())
    assert sums.total["cost_usd"] == "0.3"
    with pytest.raises(InvalidRequest, match="no pages"):
        await desk.fleet.costs.sums(By.MODEL, Chosen(), cursor="x")


async def test_a_month_is_summed_up_from_the_index_alone(desk: Desk):
    run_id = await desk.queued(1)
    await desk.execute(run_id, answered(intent(0)))
    values = dict.fromkeys(
        ("since", "until", "agent", "deployment", "model", "after_run", "after_epoch")
    )
    values |= {"by": "day", "limit": 100, "sample": 10}
    indexes = {
        _statement(By.MODEL, Chosen()): ["Index Only Scan using steps_ledger"],
        _statement(By.DAY, Chosen()): ["Index Only Scan using steps_ledger"],
        _statement(By.DEPLOYMENT, Chosen()): [
            "Index Only Scan using steps_ledger",
            "Index Only Scan using runs_ended_lately",
        ],
        _statement(By.RUN, Chosen()): ["Index Scan Backward using steps_pkey"],
        _statement(By.ATTEMPT, Chosen()): ["Index Scan Backward using steps_pkey"],
        _QUERIES.completions: ["Index Only Scan using runs_ended_lately"],
        _QUERIES.budget_use: ["Index Only Scan using runs_ended_lately"],
    }
    async with desk.fleet.pool.connection() as connection, connection.transaction():
        await connection.execute("set local enable_seqscan = off")
        await connection.execute("set local enable_bitmapscan = off")
        await connection.execute("set local enable_sort = off")
        for query, names in indexes.items():
            cursor = await connection.execute("explain " + query, values)
            plan = "\n".join(str(row) for row in await cursor.fetchall())
            assert all(name in plan for name in names), plan


async def test_the_calls_of_runs_that_ended_much_later_or_live_are_theirs_too(desk: Desk):
    slow, alive = await desk.queued(1), await desk.queued(2)
    await desk.execute(slow, answered(intent(0)))
    await desk.execute(alive, answered(intent(0)), end=None)
    async with desk.fleet.pool.connection() as connection:
        await connection.execute(
            "update runs set ended_at = ended_at + interval '3 days' where run_id = %s", (slow,)
        )
    both = 2 * Decimal(PAID.cost_usd)
    assert await desk.usd("?by=deployment") == {DEP_ID: both}
    asked = f"?by=day&agent={AGENT.agent_id}&since=0001-01-01T00:00:00Z&until=9999-01-01T00:00:00Z"
    assert await desk.usd(asked) == {f"{NOON:%Y-%m-%d}": both}


async def test_percentiles_of_a_sample_lie_among_what_was_used_and_counts_are_of_all(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("bpa.control.costs._SAMPLE", 8)
    for number in range(16):
        await desk.execute(await desk.queued(number), answered(intent(0)))
    (used,) = await desk.fleet.costs.budget_use(Chosen())
    assert used["runs"] == 16
    assert used["tokens"] == [PAID.total_tokens] * 3
