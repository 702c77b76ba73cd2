"""Deployments edited: what is kept, what is refused, and what two editors at once come to."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from bpa.control.breakers import Breakers
from bpa.control.offers import _QUERIES, offer_of
from bpa.control.revisions import ANY, Edit
from bpa.domain.executions import Outcome, OutcomeKind, TargetSeen
from bpa.domain.journal import Step, StepKind
from bpa.domain.runs import RunId
from bpa.domain.specs import Budgets, DeploymentSpec, HttpOutSpec, Target
from bpa.errors import Changed, Conflict, InvalidRequest
from bpa.postgres import fetch_all, fetch_one
from bpa.telemetry.metrics import Metrics
from tests.integration.control.fleet import AGENT, DEP_ID, DEPLOYMENT, Fleet, arrival
from tests.integration.control.rest import PROBLEM, Rest, rest_over

PATH = f"/v1/deployments/{DEP_ID}"
WIDER = replace(DEPLOYMENT, target=Target(slot_budget=8))
CHEAPER = replace(DEPLOYMENT, budgets=Budgets(max_tokens=1234))


@pytest.fixture
async def rest(fleet: Fleet) -> AsyncIterator[Rest]:
    async with rest_over(fleet) as rest:
        yield rest


def edit(spec: DeploymentSpec, note: str = "", actor: str = "ops") -> Edit:
    return Edit(spec=spec, actor=actor, note=note)


def body(spec: DeploymentSpec, **more: Any) -> dict[str, Any]:
    return {"spec": msgspec.to_builtins(spec), "requestedBy": "ops@desk", **more}


async def test_an_edit_is_a_revision_with_who_wanted_it_and_why(rest: Rest, fleet: Fleet):
    headers = {"If-Match": (await rest.get(PATH)).headers["ETag"]}
    edited = await rest.request("PUT", PATH, json=body(WIDER, note="month end"), headers=headers)

    assert (edited.status, edited.headers["ETag"]) == (200, '"2"')
    assert edited.json["spec"]["target"]["slotBudget"] == 8
    assert rest.told == ["deployments_changed", "woken"]
    listed = (await rest.get(f"{PATH}/revisions")).json
    assert listed["nextCursor"] is None
    latest, first = listed["revisions"]
    assert (latest["revision"], latest["requestedBy"], latest["note"]) == (
        2,
        "api:ops@desk",
        "month end",
    )
    assert (latest["present"], first["present"]) == (True, False)
    assert latest["changes"] == [{"field": "target.slotBudget", "before": 4, "after": 8}]
    assert (first["revision"], first["changes"]) == (1, [])
    assert (await rest.get(f"{PATH}/revisions/1")).json == first
    audit = await fetch_all(
        fleet.pool,
        "select actor, action, detail from audit where subject = %(id)s order by audit_id",
        id=DEP_ID,
    )
    assert [(row["actor"], row["action"]) for row in audit] == [("api:ops@desk", "deployment.edit")]
    assert audit[0]["detail"] == {"revision": 2, "note": "month end"}


async def test_the_same_spec_again_is_no_revision(fleet: Fleet):
    assert not await fleet.revisions.edit(DEP_ID, edit(DEPLOYMENT), "1")
    assert (await fleet.deployments.get(DEP_ID))["revision"] == 1


async def test_an_edit_has_to_say_what_it_was_made_from(rest: Rest):
    bare = await rest.request("PUT", PATH, json=body(WIDER))
    assert (bare.status, bare.json["code"]) == (428, "unguarded")
    assert bare.headers["Content-Type"] == PROBLEM
    stale = await rest.request("PUT", PATH, json=body(WIDER), headers={"If-Match": '"7"'})
    assert (stale.status, stale.json["code"]) == (412, "changed")
    forced = await rest.request("PUT", PATH, json=body(WIDER), headers={"If-Match": "*"})
    assert (forced.status, forced.json["revision"]) == (200, 2)
    bare = await rest.post(f"{PATH}:rollback", {"to": 1})
    assert bare.status == 428


async def test_of_two_editors_at_once_one_hears_that_the_other_was_first(fleet: Fleet):
    wanted = [replace(DEPLOYMENT, target=Target(slot_budget=n)) for n in range(5, 13)]
    results = await asyncio.gather(
        *(fleet.revisions.edit(DEP_ID, edit(spec), "1") for spec in wanted), return_exceptions=True
    )
    assert sorted(type(one).__name__ for one in results) == ["Changed"] * 7 + ["bool"]
    winner = wanted[[*map(type, results)].index(bool)]
    row = await fleet.deployments.get(DEP_ID)
    assert (row["revision"], msgspec.convert(row["target"], DeploymentSpec)) == (2, winner)
    assert len(await fleet.revisions.page(DEP_ID, None, 10)) == 2


async def test_a_pause_between_makes_an_edit_look_again(fleet: Fleet):
    await fleet.deployments.pause(DEP_ID, paused=True, actor="other")
    with pytest.raises(Changed, match='"1-paused"'):
        await fleet.revisions.edit(DEP_ID, edit(WIDER), "1")
    assert await fleet.revisions.edit(DEP_ID, edit(WIDER), "1-paused")
    assert "paused" in (await fleet.deployments.get(DEP_ID))["status"]


async def test_rolling_back_is_another_revision_that_says_from_which(rest: Rest, fleet: Fleet):
    await fleet.revisions.edit(DEP_ID, edit(WIDER), "1")
    asked = {"to": 1, "note": "too much", "requestedBy": "ops"}
    back = await rest.post(f"{PATH}:rollback", asked, headers={"If-Match": '"2"'})

    assert (back.status, back.headers["ETag"]) == (200, '"3"')
    assert back.json["spec"] == msgspec.to_builtins(DEPLOYMENT)
    latest = (await rest.get(f"{PATH}/revisions?limit=1")).json["revisions"][0]
    assert (latest["revision"], latest["restores"], latest["note"]) == (3, 1, "too much")
    none = await rest.post(f"{PATH}:rollback", {"to": 9}, headers={"If-Match": '"3"'})
    assert (none.status, none.json["code"]) == (404, "not_found")


async def test_revisions_are_paged_by_cursor(rest: Rest, fleet: Fleet):
    for count in range(1, 6):
        spec = replace(DEPLOYMENT, target=Target(slot_budget=10 + count))
        await fleet.revisions.edit(DEP_ID, edit(spec), ANY)
    seen, path = [], f"{PATH}/revisions?limit=4"
    first = await rest.get(path)
    seen += [one["revision"] for one in first.json["revisions"]]
    assert 'rel="next"' in first.headers["Link"]
    second = await rest.get(f"{path}&cursor={first.json['nextCursor']}")
    seen += [one["revision"] for one in second.json["revisions"]]
    assert (seen, second.json["nextCursor"]) == ([6, 5, 4, 3, 2, 1], None)
    assert second.json["revisions"][0]["changes"], "a page's last one is compared as well"
    assert (await rest.get(f"{PATH}/revisions?cursor=x")).status == 400
    assert (await rest.get("/v1/deployments/nobody/revisions")).status == 404
    assert (await rest.get(f"{PATH}/revisions/99999999999999999999")).status == 404


async def test_what_makes_the_id_cannot_be_edited_and_says_what_to_do(fleet: Fleet):
    await fleet.agents.create(replace(AGENT, agent_id="other"))
    spec = replace(DEPLOYMENT, agent_id="other", environment="prod")
    with pytest.raises(InvalidRequest, match="create another deployment") as refused:
        await fleet.revisions.edit(DEP_ID, edit(spec), "1")
    assert [line.split(":")[0] for line in refused.value.errors] == ["agentId", "environment"]
    with pytest.raises(InvalidRequest, match=r"version '9\.9\.9' of agent .* create it first"):
        await fleet.revisions.edit(DEP_ID, edit(replace(DEPLOYMENT, version="9.9.9")), "1")
    assert (await fleet.deployments.get(DEP_ID))["revision"] == 1


async def test_a_queue_is_left_only_when_nothing_of_it_is_at_work(fleet: Fleet):
    elsewhere = replace(DEPLOYMENT, queue="other")
    await fleet.register()
    run_id, epoch = await fleet.running()
    with pytest.raises(Conflict, match="pause the deployment, wait until its 1 runs have ended"):
        await fleet.revisions.edit(DEP_ID, edit(elsewhere), ANY)
    await fleet.deployments.pause(DEP_ID, paused=True, actor="ops")
    with pytest.raises(Conflict, match="wait until its 1 runs"):
        await fleet.revisions.edit(DEP_ID, edit(elsewhere), ANY)
    await fleet.runs.finish(run_id, epoch, Outcome(kind=OutcomeKind.COMPLETED))
    assert await fleet.revisions.edit(DEP_ID, edit(elsewhere), ANY)
    assert (await fleet.deployments.feeding("dev"))[DEP_ID].queue == "other"


async def test_a_queue_that_is_fed_by_another_is_not_taken(fleet: Fleet):
    await fleet.agents.create(replace(AGENT, agent_id="second"))
    await fleet.deployments.create(replace(DEPLOYMENT, agent_id="second", queue="other"))
    await fleet.deployments.pause(DEP_ID, paused=True, actor="ops")
    with pytest.raises(Conflict, match="another active deployment feeds from queue 'other'"):
        await fleet.revisions.edit(DEP_ID, edit(replace(DEPLOYMENT, queue="other")), ANY)
    found = await fleet.simulations.simulate(
        DEP_ID, msgspec.to_builtins(replace(DEPLOYMENT, queue="other"))
    )
    assert [one.field for one in found.problems] == ["queue"]


async def test_a_deployment_made_by_the_previous_release_keeps_its_first_revision(fleet: Fleet):
    await fetch_all(fleet.pool, "delete from deployment_revisions")
    await fleet.revisions.edit(DEP_ID, edit(WIDER), "1")
    listed = await fleet.revisions.page(DEP_ID, None, 10)
    assert [(row["revision"], row["actor"]) for row in listed] == [(2, "ops"), (1, "unknown")]


async def offered(fleet: Fleet, run_id: str) -> dict[str, Any]:
    """Read what a node would be offered for a run, from the statement that offers use."""
    rows = await fetch_all(fleet.pool, _QUERIES.pending, run_ids=[run_id], node_id=None)
    spec = offer_of(rows[0], [], 15.0).run
    return {
        "version": spec.agent.version,
        "routes": spec.routes,
        "max_tokens": spec.budgets.max_tokens,
        "url": spec.http_out.base_url,
    }


async def granted_now(fleet: Fleet, run_id: str) -> int:
    """Grant as the scheduler does: the lease notes the deployment's revision."""
    epoch = await fleet.granted(run_id)
    sql = (
        "update leases set revision = d.revision from deployments d where d.dep_id = leases.dep_id"
    )
    await fetch_all(fleet.pool, sql)
    return epoch


async def test_a_run_keeps_what_it_was_told_and_takes_the_limits_of_its_grant(fleet: Fleet):
    await fleet.register()
    await fleet.agents.add_version(replace(AGENT, version="2.0.0", instructions="Do other."))
    early = (await fleet.runs.receive(arrival(1, revision=1))).run_id
    changed = replace(
        DEPLOYMENT,
        version="2.0.0",
        routes=["travel"],
        budgets=Budgets(max_tokens=99),
        http_out=HttpOutSpec(base_url="https://new/post"),
    )
    await granted_now(fleet, early)
    was = {"version": "1.0.0", "routes": ["it", "general"], "max_tokens": 4000, "url": ""}
    assert await offered(fleet, early) == was

    await fleet.revisions.edit(DEP_ID, edit(changed), ANY)
    assert await offered(fleet, early) == was, "an offer that is sent again says the same"
    waiting = (await fleet.runs.receive(arrival(2, revision=1))).run_id
    await granted_now(fleet, waiting)
    limits = {"max_tokens": 99, "url": "https://new/post"}
    assert await offered(fleet, waiting) == {**was, **limits}
    late = (await fleet.runs.receive(arrival(3, version="2.0.0", revision=2))).run_id
    await granted_now(fleet, late)
    assert await offered(fleet, late) == {**limits, "version": "2.0.0", "routes": ["travel"]}


async def test_a_replay_that_goes_on_from_an_effect_keeps_its_version_and_routes(fleet: Fleet):
    await fleet.register()
    await fleet.agents.add_version(replace(AGENT, version="2.0.0"))
    first = (await fleet.runs.receive(arrival(1, revision=1))).run_id
    epoch = await fleet.granted(first)
    await fleet.leases.acknowledge(first, epoch)
    step = Step(
        seq=0, kind=StepKind.EFFECT, digest="d", intent=b"x", effect_key="k", started_at_ms=1
    )
    await fleet.runs.record_step(first, epoch, step)
    bare = (await fleet.runs.receive(arrival(2, revision=1))).run_id
    await fleet.revisions.edit(DEP_ID, edit(replace(DEPLOYMENT, version="2.0.0")), ANY)

    replays = {
        original: (
            await fleet.runs.receive(
                arrival(number, version="2.0.0", revision=2, inherits_from=original)
            )
        ).run_id
        for number, original in ((11, first), (12, bare))
    }
    sql = "select version, revision from runs where run_id = %(run_id)s::uuid"
    kept = await fetch_one(fleet.pool, sql, run_id=replays[first])
    anew = await fetch_one(fleet.pool, sql, run_id=replays[bare])
    assert kept == {"version": "1.0.0", "revision": 1}
    assert anew == {"version": "2.0.0", "revision": 2}


async def gated(fleet: Fleet) -> bool:
    sql = "select 1 from deployments cross join lateral breaker_gate(dep_id, revision) as g"
    return bool(await fetch_all(fleet.pool, sql))


async def failed(fleet: Fleet, number: int) -> None:
    """Have a run, granted before, report that its node's breaker has opened."""
    run_id = arrival(number).run_id
    row = await fetch_one(
        fleet.pool, "select epoch from leases where run_id = %(id)s::uuid", id=run_id
    )
    assert row is not None
    seen = TargetSeen(host="https://old:443", tries=10, error="HTTP 500")
    outcome = Outcome(kind=OutcomeKind.PARKED, target=seen)
    await Breakers(fleet.pool, Metrics()).heed([(run_id, row["epoch"], outcome)])


async def test_a_breaker_follows_an_edit_that_stays_and_no_edit_that_moves(fleet: Fleet):
    await fleet.register()
    for number in (1, 2, 3):
        run_id = (await fleet.runs.receive(arrival(number, revision=1))).run_id
        await fleet.leases.acknowledge(run_id, await granted_now(fleet, run_id))
    await failed(fleet, 1)
    assert await gated(fleet)

    await fleet.revisions.edit(DEP_ID, edit(WIDER), ANY)
    assert await gated(fleet), "its target is where it was"
    await failed(fleet, 2)
    assert await gated(fleet), "and what was granted before says so too"

    moved = replace(WIDER, http_out=HttpOutSpec(base_url="https://new/post"))
    await fleet.revisions.edit(DEP_ID, edit(moved), ANY)
    assert not await gated(fleet), "it posts elsewhere"
    await failed(fleet, 3)
    assert not await gated(fleet), "a run that was sent to the old target says nothing of the new"


async def test_a_simulation_changes_nothing_and_says_who_would_qualify(rest: Rest, fleet: Fleet):
    await fleet.register()
    await fleet.running()
    spec = msgspec.to_builtins(DEPLOYMENT)
    spec["placement"] = {"affinity": {"region": ["aus-east"]}}
    spec["target"]["slotBudget"] = 1
    found = (await rest.post(f"{PATH}:simulate", {"spec": spec})).json

    assert (found["valid"], found["etag"]) == (True, "1")
    assert [one["field"] for one in found["changes"]] == [
        "target.slotBudget", "placement.affinity.region",
    ]  # fmt: skip
    (node,) = found["fleet"]["nodes"]
    assert (node["before"]["qualifies"], node["after"]["qualifies"]) == (True, False)
    assert (node["after"]["refuses"], node["atWork"]) == ("no region", 1)
    assert found["fleet"]["before"] == {"limit": 4, "places": 8, "atOnce": 4, "free": 3}
    assert found["fleet"]["after"] == {"limit": 1, "places": 0, "atOnce": 0, "free": 0}
    assert (found["fleet"]["over"], found["fleet"]["stranded"]) == (0, 1)
    assert any("No node qualifies" in one for one in found["cautions"])
    assert (await fleet.deployments.get(DEP_ID))["revision"] == 1
    assert rest.told == []


async def test_a_simulation_names_every_field_that_will_not_do(rest: Rest):
    spec = msgspec.to_builtins(DEPLOYMENT)
    spec["target"]["slotBudget"] = "many"
    spec["budgets"]["maxDuration"] = "soon"
    spec["version"] = "9.9.9"
    spec["colour"] = "red"
    found = (await rest.post(f"{PATH}:simulate", {"spec": spec})).json
    assert (found["valid"], found["fleet"]) == (False, None)
    assert sorted(one["field"] for one in found["problems"]) == [
        "budgets.maxDuration", "colour", "target.slotBudget",
    ]  # fmt: skip
    spec = msgspec.to_builtins(replace(DEPLOYMENT, version="9.9.9", environment="prod"))
    found = (await rest.post(f"{PATH}:simulate", {"spec": spec})).json
    assert [one["field"] for one in found["problems"]] == ["environment", "version"]
    assert (await rest.post("/v1/deployments/nobody:simulate", {"spec": {}})).status == 404


async def test_budgets_of_a_run_are_those_that_its_lease_was_granted_under(fleet: Fleet):
    await fleet.register()
    limits = [one.budgets.max_tokens for one in (DEPLOYMENT, CHEAPER)]

    async def limit(run_id: RunId) -> int:
        spec = await fleet.revisions.budgets_of(await fleet.history.get(run_id))
        assert spec is not None
        return spec.budgets.max_tokens

    run_id, epoch = await fleet.running(1)
    waits = await fleet.queued(2)
    await fleet.revisions.edit(DEP_ID, edit(CHEAPER), ANY)
    assert [await limit(run_id), await limit(waits)] == limits
    await fleet.runs.finish(run_id, epoch, Outcome(kind=OutcomeKind.COMPLETED))
    assert await limit(run_id) == limits[0]
