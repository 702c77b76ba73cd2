"""How the last hour went, by what Postgres has of runs that ended and of those that live."""

import pytest

from bpa.control.trends import Trends
from bpa.domain.executions import Outcome, OutcomeKind
from bpa.domain.runs import RunId
from bpa.errors import Reason
from tests.integration.control.fleet import Fleet, arrival
from tests.integration.control.rest import rest_over


@pytest.fixture
async def runs(fleet: Fleet) -> list[RunId]:
    """One that completed, one dead letter, one that runs and one that waits, all of them new."""
    await fleet.register()
    found = [(await fleet.runs.receive(arrival(number))).run_id for number in range(4)]
    for run_id in found[:3]:
        await fleet.leases.acknowledge(run_id, await fleet.granted(run_id))
    completed = Outcome(kind=OutcomeKind.COMPLETED, result={})
    rejected = Outcome(kind=OutcomeKind.REJECTED, reason=Reason.BUDGET_EXCEEDED, detail="spent")
    await fleet.runs.finish(found[0], 1, completed)
    await fleet.runs.finish(found[1], 1, rejected)
    async with fleet.pool.connection() as connection:
        await connection.execute("update runs set enqueued_at = now() - interval '1 minute'")
    return found


async def test_all_that_came_is_counted_and_what_ended_by_how_it_did(
    fleet: Fleet, runs: list[RunId]
):
    trend = await Trends(fleet.pool).last_hour()
    assert sum(row["arrived"] for row in trend.arrived) == len(runs)
    assert (trend.overall["completed"], trend.overall["dead_lettered"]) == (1, 1)
    assert 55_000 < trend.overall["p50_ms"] < 300_000
    assert sum(row["completed"] for row in trend.ended) == 1


async def test_what_came_or_ended_before_is_not_in_it(fleet: Fleet, runs: list[RunId]):
    async with fleet.pool.connection() as connection:
        await connection.execute(
            "update runs set enqueued_at = now() - interval '2 hours',"
            " ended_at = ended_at - interval '61 minutes' where run_id <> %s",
            (runs[0],),
        )
    trend = await Trends(fleet.pool).last_hour()
    assert sum(row["arrived"] for row in trend.arrived) == 1
    assert (trend.overall["completed"], trend.overall["dead_lettered"]) == (1, 0)


async def test_it_is_summed_up_once_for_all_who_ask_at_a_time(fleet: Fleet, runs: list[RunId]):
    trends = Trends(fleet.pool)
    assert await trends.last_hour() is await trends.last_hour()


async def test_rest_tells_every_minute_of_the_hour_and_what_is_left_of_it(
    fleet: Fleet, runs: list[RunId]
):
    async with rest_over(fleet) as rest:
        trends = (await rest.get("/v1/trends")).json
    minutes = trends["minutes"]
    assert len(minutes) in {61, 62}
    assert sum(minute["arrived"] for minute in minutes) == len(runs)
    assert sum(minute["completed"] for minute in minutes) == trends["overall"]["completed"] == 1
    assert trends["overall"]["deadLettered"] == 1
    assert (minutes[0]["backlog"], minutes[-1]["backlog"]) == (0, 2)
    quiet = [minute for minute in minutes if not minute["completed"] + minute["deadLettered"]]
    assert {(one["latencyP95Ms"], one["costUsd"]) for one in quiet} == {(None, "0")}


async def test_rest_says_what_needs_somebody_and_what_shows_more(fleet: Fleet, runs: list[RunId]):
    async with fleet.pool.connection() as connection:
        await connection.execute("update nodes set heartbeat_at = now() - interval '1 minute'")
        await connection.execute(
            "update runs set created_at = now() - interval '3 minutes' where run_id = %s",
            (runs[3],),
        )
    async with rest_over(fleet) as rest:
        status = (await rest.get("/v1/status")).json
    assert [one["kind"] for one in status["concerns"]] == ["node_silent", "runs_wait"]
    silent, waits = status["concerns"]
    assert silent["command"] == f"bpa nodes show {silent['subject']}"
    assert waits["title"].startswith("1 run waits: ")
    assert {one["status"]: one["runs"] for one in status["alive"]} == {"running": 1, "queued": 1}
    assert status["lastHour"]["completed"] == 1
    assert status["unreceived"] == 0
