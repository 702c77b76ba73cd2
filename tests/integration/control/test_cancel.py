"""Cancelling: at once where nobody works, politely where a node does, by force in the end."""

import msgspec
import pytest

from bpa.control.reaper import Reaper
from bpa.domain.executions import Outcome, OutcomeKind
from bpa.domain.journal import Step, StepKind, Usage
from bpa.domain.runs import RunId, RunStatus
from bpa.errors import Conflict, NotFound, StaleLease
from bpa.postgres import fetch_all
from bpa.scheduler.snapshot import SnapshotReader
from bpa.telemetry.metrics import Metrics
from tests.integration.control.fleet import PRICE, Fleet, arrival
from tests.integration.control.rest import rest_over

COMPLETED = Outcome(kind=OutcomeKind.COMPLETED)
CANCELLED = Outcome(kind=OutcomeKind.REJECTED, reason="Cancelled")


def reaper(fleet: Fleet, grace_s: float = 3600.0) -> Reaper:
    return Reaper(
        fleet.leases, fleet.offers, fleet.runs, Metrics(), every_s=1.0, cancel_grace_s=grace_s
    )


async def cancelling(fleet: Fleet, number: int = 1) -> tuple[RunId, int]:
    """Return a run that works and that somebody wants ended."""
    await fleet.register()
    run_id, epoch = await fleet.running(number)
    assert await fleet.runs.cancel(run_id, "ops", "not wanted") is RunStatus.RUNNING
    return run_id, epoch


async def test_a_waiting_run_ends_at_once(fleet: Fleet):
    ended = []
    fleet.runs.on_ended(ended.append)
    run_id = await fleet.queued()
    assert await fleet.runs.cancel(run_id, "ops", "not wanted") is RunStatus.DEAD_LETTERED
    run = await fleet.history.get(run_id)
    assert (run["reason"], run["detail"]) == ("Cancelled", "not wanted")
    assert (ended[0].verdict.reason, ended[0].owner) == ("Cancelled", "replica-1")
    with pytest.raises(Conflict, match="dead_lettered"):
        await fleet.runs.cancel(run_id, "ops", "again")


async def test_an_unknown_run_cannot_be_cancelled(fleet: Fleet):
    with pytest.raises(NotFound):
        await fleet.runs.cancel(arrival(99).run_id, "ops", "")


async def test_a_node_hears_of_it_with_its_heartbeat_and_ends_the_run(fleet: Fleet):
    run_id, epoch = await cancelling(fleet)
    other, other_epoch = await fleet.running(2)
    held = [(run_id, epoch), (other, other_epoch)]
    renewal = await fleet.leases.renew("node-1", "boot-1", held)
    assert sorted(renewal.renewed) == sorted(held)
    assert renewal.cancel == [run_id]
    await fleet.runs.finish(run_id, epoch, CANCELLED)
    run = await fleet.history.get(run_id)
    assert (run["status"], run["reason"]) == ("dead_lettered", "Cancelled")
    assert run["detail"] == "not wanted"


async def test_what_a_node_doubts_stands_beside_why_the_run_was_cancelled(fleet: Fleet):
    ended = []
    fleet.runs.on_ended(ended.append)
    run_id, epoch = await cancelling(fleet)
    doubt = "whether its effect was applied is not known"
    await fleet.runs.finish(run_id, epoch, msgspec.structs.replace(CANCELLED, detail=doubt))
    assert (await fleet.history.get(run_id))["detail"] == f"not wanted; {doubt}"
    assert ended[0].verdict.detail == f"not wanted; {doubt}", "the dead letter says the same"


async def test_an_effect_that_was_applied_before_completes_the_run(fleet: Fleet):
    run_id, epoch = await cancelling(fleet)
    await fleet.runs.finish(run_id, epoch, COMPLETED)
    await reaper(fleet, 0.0).one_pass()
    assert await fleet.status(run_id) == "completed"


async def test_asking_again_ends_a_run_that_has_come_to_wait_meanwhile(fleet: Fleet):
    run_id, epoch = await cancelling(fleet)
    await fleet.runs.finish(run_id, epoch, Outcome(kind=OutcomeKind.HANDED_BACK))
    assert await fleet.status(run_id) == "queued"
    assert await fleet.runs.cancel(run_id, "ops", "again") is RunStatus.DEAD_LETTERED


async def test_asking_twice_changes_nothing_and_is_noted_once(fleet: Fleet):
    run_id, _ = await cancelling(fleet)
    assert await fleet.runs.cancel(run_id, "somebody", "else") is RunStatus.RUNNING
    run = await fleet.history.get(run_id)
    assert (run["cancel_asked_by"], run["cancel_detail"]) == ("ops", "not wanted")
    noted = await fetch_all(fleet.pool, "select actor, action, subject from audit")
    assert noted == [{"actor": "ops", "action": "run.cancel", "subject": run_id}]


@pytest.mark.parametrize(
    "kind",
    [
        OutcomeKind.AGENT_FAILED,
        OutcomeKind.CRASHED,
        OutcomeKind.NODE_FAILED,
        OutcomeKind.HANDED_BACK,
    ],
)
async def test_a_cancelled_run_that_ends_otherwise_is_not_tried_again(fleet: Fleet, kind):
    run_id, epoch = await cancelling(fleet)
    await fleet.runs.finish(run_id, epoch, Outcome(kind=kind, detail="x"))
    reader = SnapshotReader(fleet.pool, "dev", silent_after_s=10)
    assert (await reader.read()).waiting == ()
    await reaper(fleet).one_pass()
    run = await fleet.history.get(run_id)
    assert (run["status"], run["reason"], run["detail"]) == (
        "dead_lettered",
        "Cancelled",
        "not wanted",
    )


async def test_a_cancelled_run_whose_node_is_lost_is_not_tried_again(fleet: Fleet):
    run_id, epoch = await cancelling(fleet)
    await fleet.expire(run_id)
    await reaper(fleet).one_pass()
    assert (await fleet.history.get(run_id))["reason"] == "Cancelled"
    with pytest.raises(StaleLease):
        await fleet.runs.finish(run_id, epoch, COMPLETED)


async def test_a_cancelled_offer_that_its_node_refuses_ends(fleet: Fleet):
    await fleet.register()
    run_id = await fleet.queued()
    epoch = await fleet.granted(run_id)
    assert await fleet.runs.cancel(run_id, "ops", "not wanted") is RunStatus.OFFERED
    await fleet.leases.refuse(run_id, epoch, "all slots are taken")
    await reaper(fleet).one_pass()
    assert (await fleet.history.get(run_id))["reason"] == "Cancelled"


async def test_a_node_that_does_not_end_it_in_time_is_fenced(fleet: Fleet):
    run_id, epoch = await cancelling(fleet)
    answer = Usage(input_tokens=100, output_tokens=20, cost_usd="0.0006", price=PRICE)
    model = Step(seq=0, kind=StepKind.MODEL, digest="d", answer=b"{}", usage=answer, ended_at_ms=9)
    effect = Step(seq=1, kind=StepKind.EFFECT, digest="e", intent=b"x", effect_key="key-7")
    for step in (model, effect):
        await fleet.runs.record_step(run_id, epoch, step)
    await reaper(fleet).one_pass()
    assert await fleet.status(run_id) == "running", "its grace is not over"
    ended = []
    fleet.runs.on_ended(ended.append)
    await reaper(fleet, 0.0).one_pass()
    run = await fleet.history.get(run_id)
    assert (run["status"], run["reason"]) == ("dead_lettered", "Cancelled")
    assert run["detail"] == (
        "not wanted; node node-1 did not end it in time; "
        "an effect may have been applied under the key key-7"
    )
    assert (run["cost_usd"], run["tokens_used"]) == ("0.0006", 120)
    assert ended[0].owner == "replica-1"
    assert (await fleet.leases.renew("node-1", "boot-1", [(run_id, epoch)])).lost
    with pytest.raises(StaleLease):
        await fleet.runs.finish(run_id, epoch, COMPLETED)


async def test_rest_shows_a_run_that_is_being_cancelled_and_tells_its_node(fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running()
    async with rest_over(fleet) as rest:
        for _ in range(2):
            asked = await rest.post(f"/v1/runs/{run_id}:cancel", {"requestedBy": "cli:alice@desk"})
            assert asked.json == {"runId": run_id, "status": "running", "cancelling": True}
        run = (await rest.get(f"/v1/runs/{run_id}")).json
        assert (run["cancelling"], run["cancelAskedBy"]) == (True, "cli:alice@desk")
        assert (await rest.get("/v1/runs")).json["runs"][0]["cancelling"]
        held = {"bootId": "boot-1", "held": [{"runId": run_id, "epoch": epoch}]}
        beat = await rest.post("/v1/nodes/node-1:heartbeat", held)
        assert beat.json["cancel"] == [run_id]
        body = {"epoch": epoch, "outcome": msgspec.to_builtins(CANCELLED)}
        assert (await rest.post(f"/v1/runs/{run_id}:fail", body)).status == 204
        run = (await rest.get(f"/v1/runs/{run_id}")).json
        assert (run["status"], run["cancelling"]) == ("dead_lettered", False)
