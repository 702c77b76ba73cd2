"""Spans leave Postgres for the collector: once a run is over, again until they got through."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest_asyncio
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from bpa.control.runs import Runs
from bpa.control.traces import Traces
from bpa.domain.executions import BudgetKind, Excess, Outcome, OutcomeKind
from bpa.domain.journal import EffectCall, Step, StepKind
from bpa.domain.runs import RunId
from bpa.postgres import Pipeline, Pool, fetch_all
from bpa.telemetry.spans import received
from tests.integration.control.fleet import AGENT, Fleet, arrival, fleet_on

SENDER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
COMPLETED = Outcome(kind=OutcomeKind.COMPLETED)
ALL = ["receive", "plan", "lease", "think", "invoke_agent Invoice Classifier", "complete"]


class Collector(SpanExporter):
    """Takes spans, or is away."""

    def __init__(self) -> None:
        self.is_away = False
        self.spans: list[ReadableSpan] = []
        self.asked = 0

    def export(self, spans):
        self.asked += 1
        if self.is_away:
            return SpanExportResult.FAILURE
        self.spans += spans
        return SpanExportResult.SUCCESS

    def shutdown(self):
        self.is_away = True

    def names(self) -> list[str]:
        return [span.name for span in self.spans]


class World:
    def __init__(self, fleet: Fleet, runs: Runs) -> None:
        self.fleet, self.runs = fleet, runs
        self.collector = Collector()
        self.traces = self.replica("replica-1")

    def replica(self, name: str) -> Traces:
        def resource(service: str, instance: str) -> Resource:
            return Resource({"service.name": service, "service.instance.id": instance})

        return Traces(self.fleet.pool, self.fleet.history, lambda: self.collector, name, resource)

    async def received(self, number: int = 1, sender: str = SENDER) -> RunId:
        base = arrival(number)
        span = received(base.run_id, sender)
        one = arrival(number, sender=sender, traceparent=str(span), trace_id=span.trace_id)
        recorded = await self.runs.receive(one)
        self.delivery_id = recorded.delivery_id
        return recorded.run_id

    async def running(self, number: int = 1) -> tuple[RunId, int]:
        run_id = await self.received(number)
        epoch = await self.fleet.granted(run_id)
        await self.fleet.leases.acknowledge(run_id, epoch)
        return run_id, epoch

    async def over(self, number: int = 1) -> RunId:
        run_id, epoch = await self.running(number)
        await self.runs.finish(run_id, epoch, COMPLETED)
        await self.runs.settled(self.delivery_id, "complete")
        return run_id

    async def change(self, statement: str) -> None:
        async with self.fleet.pool.connection() as connection:
            await connection.execute(statement)

    async def due(self) -> int:
        """Make everything due now; return how much that is."""
        await self.change("update traces_due set due_at = now()")
        return len(await fetch_all(self.fleet.pool, "select * from traces_due"))


@pytest_asyncio.fixture
async def world(pool: Pool) -> AsyncIterator[World]:
    async with fleet_on(pool) as fleet, exporting(fleet) as runs:
        await fleet.agents.create(AGENT)
        await fleet.register()
        yield World(fleet, runs)


@asynccontextmanager
async def exporting(fleet: Fleet) -> AsyncIterator[Runs]:
    writes = Pipeline(fleet.pool)
    runs = Runs(fleet.pool, writes, fleet.breakers, "replica-1", exports_traces=True)
    try:
        yield runs
    finally:
        await runs.aclose()
        await writes.aclose()


async def test_a_run_that_is_over_is_exported_once(world: World):
    run_id = await world.over()
    await world.due()
    assert await world.traces.one_pass() == 1
    assert world.collector.names() == ALL
    assert {span.attributes["bpa.run.id"] for span in world.collector.spans} == {run_id}
    assert {format(span.context.trace_id, "032x") for span in world.collector.spans} == {
        SENDER.split("-")[1]
    }
    services = {s.name: s.resource.attributes["service.name"] for s in world.collector.spans}
    assert services == {
        name: "bpa-node" if "think" in name or "invoke" in name else "bpa-control" for name in ALL
    }
    assert await world.due() == 0
    assert await world.traces.one_pass() == 0
    assert world.collector.asked == 1


async def test_spans_wait_for_a_collector_that_is_away_and_are_the_same_when_it_is_back(
    world: World,
):
    await world.over()
    world.collector.is_away = True
    for _ in range(3):
        assert await world.due() == 1
        assert await world.traces.one_pass() == 1
    assert (world.collector.asked, world.collector.spans) == (3, [])
    world.collector.is_away = False
    await world.due()
    await world.replica("replica-2").one_pass()
    first = [(s.name, s.context.span_id, s.start_time, s.end_time) for s in world.collector.spans]
    assert [name for name, *_ in first] == ALL
    assert await world.due() == 0


async def test_a_claim_keeps_other_replicas_away(world: World):
    await world.over()
    await world.due()
    world.collector.is_away = True
    assert await world.traces.one_pass() == 1
    assert await world.replica("replica-2").one_pass() == 0


async def test_a_run_at_work_is_looked_at_again_and_shows_what_is_closed_once_it_is_late(
    world: World,
):
    run_id, epoch = await world.running()
    await world.due()
    assert await world.traces.one_pass() == 1
    assert world.collector.spans == []
    await world.change("update runs set created_at = now() - interval '11 s'")
    await world.due()
    await world.traces.one_pass()
    assert world.collector.names() == ["receive", "plan", "lease"]
    await world.due()
    await world.traces.one_pass()
    assert len(world.collector.spans) == 3, "nothing is told twice"
    await world.runs.finish(run_id, epoch, COMPLETED)
    await world.runs.settled(world.delivery_id, "complete")
    await world.due()
    await world.traces.one_pass()
    assert world.collector.names() == ALL
    assert await world.due() == 0


async def test_what_its_sender_does_not_want_recorded_is_not_exported(world: World):
    await world.received(sender=SENDER.replace("-01", "-00"))
    assert await world.due() == 0
    await world.received(2)
    assert await world.due() == 1


async def test_nothing_is_due_where_nothing_is_exported(world: World):
    await world.fleet.queued()
    assert await world.due() == 0


async def test_a_run_that_ended_long_ago_is_given_up_when_nobody_takes_it(world: World):
    await world.over()
    world.collector.is_away = True
    await world.change("update runs set ended_at = now() - interval '61 minutes'")
    await world.due()
    assert await world.traces.one_pass() == 1
    assert await world.due() == 0


async def test_a_run_over_its_budget_says_which_and_by_how_much(world: World):
    run_id, epoch = await world.running()
    excess = Excess(kind=BudgetKind.TOKENS, limit="4000", consumed="3800", refused="912")
    over = Outcome(kind=OutcomeKind.REJECTED, reason="BudgetExceeded", excess=excess)
    await world.runs.finish(run_id, epoch, over)
    await world.runs.settled(world.delivery_id, "dead_letter")
    await world.due()
    await world.traces.one_pass()
    (think,) = [span for span in world.collector.spans if span.name == "think"]
    of_budget = {k: v for k, v in think.attributes.items() if k.startswith("bpa.budget.")}
    assert of_budget == {
        "bpa.budget.kind": "tokens",
        "bpa.budget.limit": 4000.0,
        "bpa.budget.consumed": 3800.0,
        "bpa.budget.refused": 912.0,
    }


async def test_a_request_that_was_refused_says_with_what(world: World):
    run_id, epoch = await world.running()
    asked = EffectCall(host="http://erp:80", method="POST")
    effect = Step(
        seq=0, kind=StepKind.EFFECT, digest="e", intent=b"b", effect_key="k", call=asked,
        started_at_ms=round(time.time() * 1000),
    )  # fmt: skip
    await world.runs.record_step(run_id, epoch, effect)
    refused = Outcome(
        kind=OutcomeKind.REJECTED,
        reason="NonRetryableHttpStatus",
        heard=msgspec.structs.replace(asked, status=422, tries=1),
        timings={"http_out": 5.0},
    )
    await world.runs.finish(run_id, epoch, refused)
    await world.runs.settled(world.delivery_id, "dead_letter")
    await world.due()
    await world.traces.one_pass()
    (out,) = [span for span in world.collector.spans if span.name == "http.out"]
    assert out.attributes["http.response.status_code"] == 422
    assert out.attributes["error.type"] == "NonRetryableHttpStatus"


async def test_what_waits_for_a_collector_that_is_away_for_long_is_bounded(
    world: World, monkeypatch
):
    monkeypatch.setattr("bpa.control.traces._AT_ONCE", 1)
    for number in (1, 2, 3):
        await world.over(number)
    await world.received(4)
    world.collector.is_away = True
    await world.due()
    await world.change("update runs set ended_at = ended_at - interval '61 minutes'")
    await world.change("update traces_due set due_at = now() - interval '61 minutes'")
    assert await world.traces.one_pass() == 1
    assert await world.due() == 1, "the run at work alone"


async def test_an_attempt_that_was_lost_is_in_the_trace_though_its_node_told_nothing(world: World):
    run_id, _ = await world.running()
    await world.fleet.expire(run_id)
    assert await world.fleet.leases.reap() == 1
    await world.change("update runs set not_before = null")
    epoch = await world.fleet.granted(run_id)
    await world.fleet.leases.acknowledge(run_id, epoch)
    await world.runs.finish(run_id, epoch, COMPLETED)
    await world.runs.settled(world.delivery_id, "complete")
    await world.due()
    await world.traces.one_pass()
    thinks = [span for span in world.collector.spans if span.name == "think"]
    assert [think.attributes["bpa.attempt"] for think in thinks] == [1, 2]
    assert [think.attributes.get("error.type") for think in thinks] == ["expired", None]
    assert [think.status.is_ok for think in thinks] == [False, True]
