"""Deployments paused and resumed: what they take and start, who may, and what stays as it is."""

from collections.abc import AsyncIterator

import pytest

from bpa.scheduler.snapshot import SnapshotReader
from tests.integration.control.fleet import DEP_ID, Fleet
from tests.integration.control.rest import PROBLEM, Rest, rest_over


@pytest.fixture
async def rest(fleet: Fleet) -> AsyncIterator[Rest]:
    async with rest_over(fleet) as rest:
        yield rest


async def audited(fleet: Fleet) -> list[tuple[str, str]]:
    sql = "select actor, action from audit where subject = %s order by audit_id"
    async with fleet.pool.connection() as connection:
        rows = await (await connection.execute(sql, (DEP_ID,))).fetchall()
    return [(row["actor"], row["action"]) for row in rows]


async def test_a_paused_deployment_keeps_its_queue_and_takes_and_starts_nothing(fleet: Fleet):
    reader = SnapshotReader(fleet.pool, "dev", silent_after_s=10)
    assert (await reader.read()).deployments[DEP_ID].active

    paused = await fleet.deployments.pause(DEP_ID, paused=True, actor="ops")

    assert paused["status"]["active"] is True
    feeding = (await fleet.deployments.feeding("dev"))[DEP_ID]
    assert (feeding.paused, feeding.revision) == (True, 1)
    assert DEP_ID not in (await reader.read()).deployments, "it has nothing that waits"
    await fleet.queued()
    assert not (await reader.read()).deployments[DEP_ID].active
    await fleet.deployments.pause(DEP_ID, paused=False, actor="ops")
    assert not (await fleet.deployments.feeding("dev"))[DEP_ID].paused
    assert (await reader.read()).deployments[DEP_ID].active


async def test_a_pause_is_noted_once_with_who_wanted_it(rest: Rest, fleet: Fleet):
    path = f"/v1/deployments/{DEP_ID}"
    first = await rest.post(f"{path}:pause", {"requestedBy": "ops@desk"})
    again = await rest.post(f"{path}:pause", {"requestedBy": "other"})
    assert (first.status, again.status) == (200, 200)
    assert first.json == again.json
    assert (first.json["pausedBy"], first.json["pausedAt"][:2]) == ("api:ops@desk", "20")
    resumed = await rest.post(f"{path}:resume")
    assert (resumed.status, resumed.json["pausedAt"]) == (200, None)
    assert await audited(fleet) == [
        ("api:ops@desk", "deployment.pause"),
        ("api", "deployment.resume"),
    ]


async def test_a_pause_that_was_decided_by_an_older_state_is_refused(rest: Rest, fleet: Fleet):
    path = f"/v1/deployments/{DEP_ID}"
    seen = (await rest.get(path)).headers["ETag"]
    assert seen == '"1"'
    paused = await rest.post(f"{path}:pause", headers={"If-Match": seen})
    assert (paused.status, paused.headers["ETag"]) == (200, '"1-paused"')

    refused = await rest.post(f"{path}:resume", headers={"If-Match": seen})

    assert (refused.status, refused.json["code"]) == (412, "changed")
    assert refused.headers["Content-Type"] == PROBLEM
    assert (await rest.get(path)).json["pausedAt"] is not None
    for any_state in ("*", 'W/"1-paused"', None):
        headers = {"If-Match": any_state} if any_state else {}
        assert (await rest.post(f"{path}:resume", headers=headers)).status == 200
        await rest.post(f"{path}:pause")


async def test_a_deployment_that_is_none_is_not_paused(rest: Rest):
    assert (await rest.post("/v1/deployments/nobody:pause")).status == 404
    body = {"requestedBy": "", "more": 1}
    assert (await rest.post(f"/v1/deployments/{DEP_ID}:pause", body)).status == 400
