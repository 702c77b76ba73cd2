"""What nodes report of failing targets, in Postgres: who is parked, and what then is known."""

import asyncio

import msgspec
import pytest

from bpa.domain.executions import Outcome, OutcomeKind, TargetSeen
from bpa.errors import InvalidRequest, StaleLease
from bpa.scheduler.breakers import BreakerState
from tests.integration.control.fleet import DEP_ID, Fleet
from tests.integration.control.rest import rest_over

HOST = "http://target:80"


def seen(error="HTTP 503", closings=0):
    return TargetSeen(host=HOST, closings=closings, tries=4 if error else 0, error=error)


def parked(**changes):
    return Outcome(kind=OutcomeKind.PARKED, target=seen(**changes), worked_s=0.25)


def out_of_tries(**changes):
    return Outcome(
        kind=OutcomeKind.REJECTED, reason="RetriesExhausted", detail="HTTP 503 on the last of 4",
        target=seen(**changes), worked_s=2.0, timings={"http_out": 1_500.0},
    )  # fmt: skip


def completed(**changes):
    return Outcome(kind=OutcomeKind.COMPLETED, target=seen(error="", **changes))


async def the_breaker(fleet):
    [row] = await fleet.breakers.page()
    return row


async def execute(fleet, sql, **values):
    async with fleet.pool.connection() as connection:
        await connection.execute(sql, values)


async def probing(fleet, number=1, outcome=None):
    """Have a run be the probe of the open breaker, and report this outcome."""
    run_id = await fleet.queued(number)
    await execute(
        fleet, "update runs set not_before = null where run_id = %(run_id)s::uuid", run_id=run_id
    )
    epoch = await fleet.granted(run_id)
    await execute(
        fleet,
        "update breakers set probe_run = %(run_id)s::uuid, probe_epoch = %(epoch)s",
        run_id=run_id,
        epoch=epoch,
    )
    await fleet.leases.acknowledge(run_id, epoch)
    if outcome is not None:
        await fleet.runs.finish(run_id, epoch, outcome)
    return run_id, epoch


async def test_a_parked_run_waits_at_no_cost_and_says_for_whom(fleet: Fleet):
    await fleet.register()
    told = []
    fleet.runs.on_ended(told.append)
    run_id, epoch = await fleet.running()
    await fleet.runs.finish(run_id, epoch, parked())
    run = await fleet.history.get(run_id)
    assert run["status"] == "queued"
    assert (run["agent_failures"], run["crashes"], run["infra_failures"]) == (0, 0, 0)
    assert (run["worked_s"], run["lease_expires_at"], run["ended_at"]) == (0.25, None, None)
    assert run["waiting_reason"].startswith(f"parked: target {HOST} fails (HTTP 503); probed next")
    assert (run["parked"]["host"], run["parked"]["error"]) == (HOST, "HTTP 503")
    assert [ended.verdict for ended in told] == [None], "its slot is free, its message waits"

    row = await the_breaker(fleet)
    assert (row["state"], row["parked_runs"], row["deployments"]) == ("open", 1, [DEP_ID])
    assert row["probe_at"] > row["since"]


async def test_the_same_report_again_opens_nothing_again(fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running()
    await fleet.runs.finish(run_id, epoch, parked())
    await execute(fleet, "update breakers set state = 'closed', closings = 0")
    await fleet.runs.finish(run_id, epoch, parked())
    assert (await the_breaker(fleet))["state"] == "closed"


async def test_of_many_runs_out_of_tries_at_once_two_end_so_and_the_others_wait(fleet: Fleet):
    await fleet.register()
    runs = [await fleet.running(number) for number in range(1, 9)]
    await asyncio.gather(*(fleet.runs.finish(*run, out_of_tries()) for run in runs))
    rows = [await fleet.history.get(run_id) for run_id, _ in runs]
    assert sorted(row["status"] for row in rows) == ["dead_lettered"] * 2 + ["queued"] * 6
    assert {row["reason"] for row in rows} == {"RetriesExhausted", None}
    assert {(row["status"], row["worked_s"]) for row in rows} == {
        ("dead_lettered", 2.0),
        ("queued", 0.5),
    }
    assert (await the_breaker(fleet))["parked_runs"] == 6


async def test_runs_that_complete_in_between_keep_the_breaker_closed(fleet: Fleet):
    await fleet.register()
    for number in range(1, 13, 2):
        await fleet.runs.finish(*await fleet.running(number), out_of_tries())
        done = Outcome(kind=OutcomeKind.COMPLETED)
        await fleet.runs.finish(*await fleet.running(number + 1), done)
    assert (await the_breaker(fleet))["state"] == "closed"
    totals = {row["status"]: row["runs"] for row in await fleet.history.totals()}
    assert totals == {"dead_lettered": 6, "completed": 6}


async def test_a_failed_probe_costs_its_run_nothing_and_the_next_comes_later(fleet: Fleet):
    await fleet.register()
    await fleet.runs.finish(*await fleet.running(), parked())
    first = await the_breaker(fleet)
    run_id, _ = await probing(fleet, 2, parked())
    run, second = await fleet.history.get(run_id), await the_breaker(fleet)
    assert (run["status"], run["spared"], run["parked"]["probed"]) == ("queued", 0, True)
    assert (second["state"], second["failed_probes"], second["probe_run_id"]) == ("open", 1, None)
    assert second["probe_at"] > first["probe_at"]
    assert run["not_before"] > second["probe_at"], "another run goes first"


async def test_a_probe_whose_outcome_is_unknown_ends_so_and_the_next_comes_later(fleet: Fleet):
    await fleet.register()
    await fleet.runs.finish(*await fleet.running(1), parked())
    before = await the_breaker(fleet)
    unknown = Outcome(kind=OutcomeKind.REJECTED, reason="OutcomeUnknown", target=seen("no answer"))
    run_id, _ = await probing(fleet, 2, unknown)
    run = await fleet.history.get(run_id)
    assert (run["status"], run["reason"]) == ("dead_lettered", "OutcomeUnknown")
    after = await the_breaker(fleet)
    assert (after["state"], after["failed_probes"]) == ("open", before["failed_probes"] + 1)
    assert after["probe_at"] > before["probe_at"]


async def test_the_probe_shows_while_its_lease_is_there(fleet: Fleet):
    await fleet.register()
    await fleet.runs.finish(*await fleet.running(), parked())
    run_id, _ = await probing(fleet, 2)
    assert (await the_breaker(fleet))["probe_run_id"] == run_id
    await fleet.expire(run_id)
    await fleet.leases.reap()
    assert (await the_breaker(fleet))["probe_run_id"] is None


async def test_an_answered_probe_begins_to_close_and_answers_close_it(fleet: Fleet):
    await fleet.register()
    await fleet.runs.finish(*await fleet.running(), parked())
    run_id, _ = await probing(fleet, 2, completed())
    assert await fleet.status(run_id) == "completed"
    row = await the_breaker(fleet)
    assert (row["state"], row["ramp"], row["failed_probes"]) == ("closing", 2, 0)
    for number in (3, 4):
        assert (await the_breaker(fleet))["state"] == "closing"
        await fleet.runs.finish(*await fleet.running(number), completed(closings=1))
    assert (await the_breaker(fleet))["state"] == "closed"


@pytest.mark.parametrize(
    ("state", "is_probe"),
    [(BreakerState.OPEN, True), (BreakerState.CLOSING, False), (BreakerState.CLOSED, False)],
)
async def test_an_offer_says_what_its_node_has_to_know(fleet: Fleet, state, is_probe):
    await fleet.register()
    await fleet.runs.finish(*await fleet.running(), parked())
    run_id = await fleet.queued(2)
    epoch = await fleet.granted(run_id)
    await execute(
        fleet,
        "update breakers set state = %(state)s, closings = 6, probe_run = %(run_id)s::uuid,"
        " probe_epoch = %(epoch)s",
        state=state,
        run_id=run_id if state is BreakerState.OPEN else None,
        epoch=epoch if state is BreakerState.OPEN else None,
    )
    [offer] = await fleet.offers.pull("node-1", "boot-1", 5.0, 1)
    admission = offer.run.admission
    assert (admission.closings, admission.probe) == (6, is_probe)
    assert admission.watched is (state is not BreakerState.CLOSED)


async def test_an_offer_of_a_deployment_that_never_failed_knows_of_no_breaker(fleet: Fleet):
    await fleet.register()
    run_id = await fleet.queued()
    await fleet.granted(run_id)
    [offer] = await fleet.offers.pull("node-1", "boot-1", 5.0, 1)
    assert (offer.run.admission.closings, offer.run.admission.watched) == (0, False)


async def test_a_report_under_a_lease_that_has_moved_on_opens_nothing(fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running()
    await fleet.expire(run_id)
    await fleet.leases.reap()
    with pytest.raises(StaleLease):
        await fleet.runs.finish(run_id, epoch, parked())
    assert (await the_breaker(fleet))["state"] == "closed"


async def test_an_outcome_that_is_parked_without_a_target_is_refused(fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running()
    with pytest.raises(InvalidRequest, match="names the target"):
        await fleet.runs.finish(run_id, epoch, Outcome(kind=OutcomeKind.PARKED))


async def test_rest_lists_breakers_and_shows_parked_runs(fleet: Fleet):
    await fleet.register()
    async with rest_over(fleet) as rest:
        assert (await rest.get("/v1/breakers")).json == []
        run_id, epoch = await fleet.running()
        body = msgspec.to_builtins(parked())
        failed = await rest.post(f"/v1/runs/{run_id}:fail", {"epoch": epoch, "outcome": body})
        assert failed.status == 204
        [breaker] = (await rest.get("/v1/breakers")).json
        [summary] = (await rest.get("/v1/runs")).json["runs"]
        run = (await rest.get(f"/v1/runs/{run_id}")).json
        assert (breaker["host"], breaker["state"], breaker["parkedRuns"]) == (HOST, "open", 1)
        assert (breaker["lastError"], breaker["deployments"]) == ("HTTP 503", [DEP_ID])
        assert breaker["probeAt"]
        assert breaker["since"]
        assert summary["parked"] == run["parked"]
        assert (run["parked"]["host"], run["parked"]["error"]) == (HOST, "HTTP 503")
        await fleet.runs.cancel(run_id, "test", "no more")
        assert (await rest.get(f"/v1/runs/{run_id}")).json["parked"] is None
        assert (await rest.get("/v1/breakers")).json[0]["parkedRuns"] == 0
