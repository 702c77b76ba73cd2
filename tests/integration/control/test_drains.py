"""Cordon and drain: what an operator decides about a node, and what follows."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from bpa.control.drains import NodeState, Stage, state_of
from bpa.control.rest.node_schemas import Node
from bpa.domain.executions import Outcome, OutcomeKind
from bpa.domain.journal import Step, StepKind
from bpa.domain.specs import NodeSpec
from bpa.errors import NotFound, StaleLease
from tests.eventually import eventually
from tests.integration.control.fleet import Fleet
from tests.integration.control.rest import PROBLEM, Rest, rest_over


@pytest.fixture
async def rest(fleet: Fleet) -> AsyncIterator[Rest]:
    async with rest_over(fleet) as rest:
        yield rest


async def rows(fleet: Fleet, sql: str, **values: object) -> list[dict[str, object]]:
    async with fleet.pool.connection() as connection:
        cursor = await connection.execute(sql, values)
        return await cursor.fetchall() if cursor.description else []


def spec(boot_id: str) -> NodeSpec:
    return NodeSpec(node_id="node-1", boot_id=boot_id, slots=8)


async def state(fleet: Fleet) -> NodeState:
    return state_of(await fleet.nodes.get("node-1"))


async def test_a_drain_leaves_what_runs_and_takes_back_what_is_only_offered(fleet: Fleet):
    await fleet.register()
    running, epoch = await fleet.running(1)
    offered = await fleet.queued(2)
    offer = await fleet.granted(offered)
    ended = []
    fleet.leases.on_ended(ended.append)

    drained = await fleet.drains.drain("node-1", "test", 600)

    assert (drained.taken_back, drained.deadline_before) == (1, None)
    assert [(one.row["run_id"], one.row["status"], one.verdict) for one in ended] == [
        (offered, "queued", None)
    ]
    run = await fleet.history.get(offered)
    assert (run["status"], run["lease_epoch"]) == ("queued", offer + 1)
    assert "cordoned" in run["waiting_reason"]
    counted = ("executions", "agent_failures", "crashes", "infra_failures")
    assert [run[name] for name in counted] == [0, 0, 0, 0]
    with pytest.raises(StaleLease):
        await fleet.leases.acknowledge(offered, offer)
    renewal = await fleet.leases.renew("node-1", "boot-1", [(running, epoch)])
    assert renewal.renewed == [(running, epoch)]
    assert (renewal.cordoned, renewal.draining, renewal.hand_back) == (True, True, False)
    assert [row["run_id"] for row in await fleet.drains.remaining("node-1")] == [running]
    assert await state(fleet) is NodeState.DRAINING


async def test_an_acknowledgement_and_a_drain_at_once_leave_a_lease_or_an_offer_taken_back(
    fleet: Fleet,
):
    await fleet.register()
    for number in range(1, 21):
        run_id = await fleet.queued(number)
        epoch = await fleet.granted(run_id)
        acknowledged, drained = await asyncio.gather(
            fleet.leases.acknowledge(run_id, epoch),
            fleet.drains.drain("node-1", "test"),
            return_exceptions=True,
        )
        assert not isinstance(drained, BaseException), drained
        run = await fleet.history.get(run_id)
        if acknowledged is None:
            assert (run["status"], drained.taken_back) == ("running", 0)
        else:
            assert isinstance(acknowledged, StaleLease)
            assert (run["status"], run["executions"], drained.taken_back) == ("queued", 0, 1)


async def test_the_deadline_is_told_with_the_next_heartbeat(fleet: Fleet):
    await fleet.register()
    held = await fleet.running()
    await fleet.drains.drain("node-1", "test", 0)
    renewal = await fleet.leases.renew("node-1", "boot-1", [held])
    assert (renewal.hand_back, renewal.renewed) == (True, [held])
    await fleet.runs.finish(*held, Outcome(kind=OutcomeKind.HANDED_BACK))
    run = await fleet.history.get(held[0])
    assert (run["status"], run["infra_failures"], run["executions"]) == ("queued", 0, 1)
    assert await state(fleet) is NodeState.DRAINED


async def test_a_second_drain_moves_the_deadline_either_way_or_keeps_it(fleet: Fleet):
    await fleet.register()
    first = await fleet.drains.drain("node-1", "test", 60)
    later = await fleet.drains.drain("node-1", "test", 600)
    sooner = await fleet.drains.drain("node-1", "test", 5)
    kept = await fleet.drains.drain("node-1", "test")
    assert (later.deadline_before, sooner.deadline_before) == (first.deadline_at, later.deadline_at)
    assert first.deadline_at < later.deadline_at > sooner.deadline_at < first.deadline_at
    assert kept.deadline_before == kept.deadline_at == sooner.deadline_at
    node = await fleet.nodes.get("node-1")
    assert node["drain_started_at"] <= first.deadline_at


async def test_a_drain_without_a_deadline_has_ten_minutes(fleet: Fleet):
    await fleet.register()
    await fleet.drains.drain("node-1", "test")
    assert 590 < (await fleet.nodes.get("node-1"))["drain_left_s"] <= 600


async def test_uncordon_calls_a_drain_off_and_what_runs_stays(fleet: Fleet):
    await fleet.register()
    held = await fleet.running()
    drained = await fleet.drains.drain("node-1", "test", 0)
    assert await fleet.drains.uncordon("node-1", "test") == drained.deadline_at
    renewal = await fleet.leases.renew("node-1", "boot-1", [held])
    assert renewal.renewed == [held]
    assert (renewal.cordoned, renewal.draining, renewal.hand_back) == (False, False, False)
    assert await state(fleet) is NodeState.READY
    assert await fleet.drains.uncordon("node-1", "test") is None


async def test_a_cordoned_node_keeps_what_it_runs_and_a_drain_outlives_a_cordon(fleet: Fleet):
    await fleet.register()
    held = await fleet.running(1)
    await fleet.granted(await fleet.queued(2))
    assert await fleet.drains.cordon("node-1", "test") == 1
    assert await state(fleet) is NodeState.CORDONED
    renewal = await fleet.leases.renew("node-1", "boot-1", [held])
    assert (renewal.renewed, renewal.cordoned, renewal.draining) == ([held], True, False)
    await fleet.drains.drain("node-1", "test", 0)
    assert await fleet.drains.cordon("node-1", "test") == 0
    assert (await fleet.leases.renew("node-1", "boot-1", [held])).hand_back


async def test_a_new_boot_of_a_drained_node_stays_drained_and_resumes_nothing(fleet: Fleet):
    registration = await fleet.nodes.register(spec("boot-1"))
    assert (registration.cordoned, registration.draining) == (False, False)
    held = await fleet.running()
    await fleet.drains.drain("node-1", "test", 600)
    await fleet.nodes.gone("node-1")
    registration = await fleet.nodes.register(spec("boot-2"))
    assert (registration.cordoned, registration.draining) == (True, True)
    assert await fleet.leases.reap() == 1
    assert await fleet.status(held[0]) == "queued"
    renewal = await fleet.leases.renew("node-1", "boot-2", [held])
    assert (renewal.known, renewal.renewed, renewal.lost) == (True, [], [held])
    assert await state(fleet) is NodeState.DRAINED


async def test_a_node_that_hands_nothing_back_is_renewed_for_one_time_to_live(fleet: Fleet):
    await fleet.register()
    held = await fleet.running()
    await fleet.drains.drain("node-1", "test", 0)
    await rows(fleet, "update nodes set drain_deadline_at = now() - interval '14 s'")
    assert (await fleet.leases.renew("node-1", "boot-1", [held])).renewed == [held]
    await rows(fleet, "update nodes set drain_deadline_at = now() - interval '16 s'")
    assert (await fleet.leases.renew("node-1", "boot-1", [held])).lost == [held]
    assert await fleet.leases.reap() == 0, "its lease lasts as long as it was promised"
    await fleet.expire(held[0])
    assert await fleet.leases.reap() == 1
    run = await fleet.history.get(held[0])
    assert (run["status"], run["infra_failures"]) == ("queued", 0)
    assert "drained" in run["waiting_reason"]


async def test_a_node_that_dies_before_its_deadline_costs_what_it_always_costs(fleet: Fleet):
    await fleet.register()
    held = await fleet.running()
    await fleet.drains.drain("node-1", "test", 600)
    await fleet.expire(held[0])
    await fleet.leases.reap()
    assert (await fleet.history.get(held[0]))["infra_failures"] == 1


async def test_what_remains_says_how_far_it_has_come(fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running(1)
    await fleet.granted(await fleet.queued(2))

    async def stages() -> list[Stage]:
        return [row["stage"] for row in await fleet.drains.remaining("node-1")]

    model = Step(seq=0, kind=StepKind.MODEL, digest="d")
    answered = Step(seq=0, kind=StepKind.MODEL, digest="d", answer=b"{}")
    effect = Step(seq=1, kind=StepKind.EFFECT, digest="e", intent=b"{}", effect_key="k:1")
    assert await stages() == [Stage.STARTING, Stage.OFFERED]
    for step, stage in (
        (model, Stage.MODEL),
        (answered, Stage.THINKING),
        (effect, Stage.HTTP_OUT),
    ):
        await fleet.runs.record_step(run_id, epoch, step)
        assert await stages() == [stage, Stage.OFFERED]
    first, second = await fleet.drains.remaining("node-1")
    assert 50 < first["left_s"] <= 60
    assert second["left_s"] is None


async def test_each_decision_is_in_the_audit_with_who_made_it(fleet: Fleet):
    await fleet.register()
    await fleet.drains.cordon("node-1", "ada")
    await fleet.drains.drain("node-1", "bob", 60)
    node = Node.of(await fleet.nodes.get("node-1"))
    assert node.drain is not None
    assert (node.cordoned_by, node.drain.requested_by) == ("ada", "bob")
    await fleet.drains.uncordon("node-1", "eve")
    assert Node.of(await fleet.nodes.get("node-1")).cordoned_by is None
    await fleet.drains.drain("node-1", "cid", 60)
    node = Node.of(await fleet.nodes.get("node-1"))
    assert node.drain is not None
    assert (node.cordoned_by, node.drain.requested_by) == ("cid", "cid")
    await fleet.drains.uncordon("node-1", "cid")
    written = await rows(
        fleet, "select actor, action, subject, detail from audit order by audit_id"
    )
    assert [(row["actor"], row["action"], row["subject"]) for row in written] == [
        ("ada", "node.cordon", "node-1"),
        ("bob", "node.drain", "node-1"),
        ("eve", "node.uncordon", "node-1"),
        ("cid", "node.drain", "node-1"),
        ("cid", "node.uncordon", "node-1"),
    ]
    assert written[1]["detail"]["deadline_at"] == written[2]["detail"]["called_off"]


@pytest.mark.parametrize("verb", ["drain", "cordon", "uncordon"])
async def test_a_node_that_nobody_knows_cannot_be_decided_about(fleet: Fleet, verb: str):
    with pytest.raises(NotFound, match="bpa nodes list"):
        await getattr(fleet.drains, verb)("nobody", "test")
    assert await rows(fleet, "select 1 from audit") == []


async def test_an_operator_drains_and_takes_back_over_rest(rest: Rest, fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running(1)
    await fleet.granted(await fleet.queued(2))

    asked = await rest.post("/v1/nodes/node-1:drain", {"deadlineS": 120})
    assert asked.status == 200, asked.text
    assert (asked.json["takenBack"], asked.json["deadlineBefore"]) == (1, None)
    assert 120 < asked.json["emptyWithinS"] < 180
    assert rest.told == ["woken"]
    node = asked.json["node"]
    assert (node["state"], node["draining"], node["slotsUsed"]) == ("draining", True, 1)
    assert 110 < node["drain"]["leftS"] <= 120
    [lease] = node["leases"]
    assert (lease["runId"], lease["epoch"], lease["stage"]) == (run_id, epoch, "starting")
    assert (await rest.get("/v1/nodes")).json[0]["state"] == "draining"

    again = await rest.post("/v1/nodes/node-1:drain")
    assert again.json["deadlineBefore"] == again.json["node"]["drain"]["deadlineAt"]
    assert (await rest.post("/v1/nodes/node-1:cordon")).json["node"]["state"] == "draining"
    off = await rest.post("/v1/nodes/node-1:uncordon")
    assert off.json["calledOff"] == again.json["deadlineBefore"]
    assert (off.json["node"]["state"], off.json["node"]["drain"]) == ("ready", None)
    kept = await rest.post("/v1/nodes/node-1:cordon")
    assert (kept.json["node"]["state"], kept.json["takenBack"]) == ("cordoned", 0)


async def test_a_drain_that_makes_no_sense_is_refused_and_changes_nothing(rest: Rest, fleet: Fleet):
    await fleet.register()
    for body in ({"deadlineS": -1}, {"deadlineS": 1e9}, {"deadlineS": "10m"}, {"deadline": 5}, []):
        refused = await rest.post("/v1/nodes/node-1:drain", body)
        assert (refused.status, refused.json["code"]) == (400, "invalid_request"), body
    for verb in ("drain", "cordon", "uncordon"):
        missing = await rest.post(f"/v1/nodes/nobody:{verb}")
        assert (missing.status, missing.headers["Content-Type"]) == (404, PROBLEM)
    assert (await rest.get("/v1/nodes/node-1")).json["state"] == "ready"


async def test_a_node_over_rest_hears_of_its_drain_like_any_other(rest: Rest, fleet: Fleet):
    body = {"nodeId": "node-1", "bootId": "boot-1", "slots": 2}
    await rest.post("/v1/nodes:register", body)
    run_id, epoch = await fleet.running(1)
    offered = await fleet.queued(2)
    poll = asyncio.ensure_future(
        rest.post("/v1/lease/pull", {"nodeId": "node-1", "bootId": "boot-1", "waitS": 1, "max": 8})
    )
    await eventually(lambda: fleet.offers.connected("node-1"))
    await rest.post("/v1/nodes/node-1:drain", {"deadlineS": 0})
    assert (await poll).json == {"leases": []}
    held = {"bootId": "boot-1", "held": [{"runId": run_id, "epoch": epoch}]}
    beat = (await rest.post("/v1/nodes/node-1:heartbeat", held)).json
    assert (beat["cordoned"], beat["draining"], beat["handBack"]) == (True, True, True)
    outcome = {"kind": "handed_back", "detail": "drained"}
    path = f"/v1/runs/{run_id}:fail"
    assert (await rest.post(path, {"epoch": epoch, "outcome": outcome})).status == 204
    await fleet.nodes.gone("node-1")
    again = (await rest.post("/v1/nodes:register", {**body, "bootId": "boot-2"})).json
    assert (again["cordoned"], again["draining"]) == (True, True)
    assert (await rest.get("/v1/nodes/node-1")).json["state"] == "drained"
    assert await fleet.status(offered) == "queued"


async def aged(fleet: Fleet, seconds: float) -> None:
    sql = "update nodes set heartbeat_at = heartbeat_at - make_interval(secs => %(seconds)s)"
    await rows(fleet, sql, seconds=seconds)


async def test_a_node_is_forgotten_once_it_is_silent_and_holds_nothing(rest: Rest, fleet: Fleet):
    await fleet.register()
    held = await fleet.running()
    alive = await rest.request("DELETE", "/v1/nodes/node-1")
    assert (alive.status, "alive" in alive.json["detail"]) == (409, True)
    await aged(fleet, 60)
    holding = await rest.request("DELETE", "/v1/nodes/node-1")
    assert (holding.status, "holds 1 lease" in holding.json["detail"]) == (409, True)
    await fleet.runs.finish(*held, Outcome(kind=OutcomeKind.HANDED_BACK))

    assert (await rest.request("DELETE", "/v1/nodes/node-1")).status == 204

    assert (await rest.request("DELETE", "/v1/nodes/node-1")).status == 404
    assert (await rest.get("/v1/nodes")).json == []
    (noted,) = await rows(fleet, "select actor, detail from audit where action = 'node.forget'")
    assert noted["actor"] == "api"
    await fleet.register(boot_id="boot-2")
    assert await state(fleet) is NodeState.READY


async def test_who_cordons_drains_takes_back_and_forgets_is_audited_as_they_say(
    rest: Rest, fleet: Fleet
):
    await fleet.register()
    for verb in ("cordon", "drain", "uncordon"):
        asked = {"requestedBy": f"cli:alice@{verb}"}
        assert (await rest.post(f"/v1/nodes/node-1:{verb}", asked)).status == 200
    assert (await rest.post("/v1/nodes/node-1:cordon", {"requestedBy": ""})).status == 400
    assert (await rest.post("/v1/nodes/node-1:cordon", {"requestedBy": "x" * 201})).status == 400
    await aged(fleet, 60)
    path = "/v1/nodes/node-1?requestedBy=ali%E2%80%AEce%0A"
    assert (await rest.request("DELETE", path)).status == 204
    noted = await rows(fleet, "select actor, action from audit order by audit_id")
    assert [(row["actor"], row["action"]) for row in noted] == [
        ("cli:alice@cordon", "node.cordon"),
        ("cli:alice@drain", "node.drain"),
        ("cli:alice@uncordon", "node.uncordon"),
        ("api:alice", "node.forget"),
    ]
