"""Edits of deployments, tried out and made, and what they said before."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote, urlencode

from litestar import Response, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from bpa.control.cursors import cursor_of_revision, read_revision
from bpa.control.deployments import tag_of
from bpa.control.rest import revision_schemas as schemas
from bpa.control.rest.deployment_schemas import Deployment
from bpa.control.rest.headers import IfMatchNeeded, demanded
from bpa.control.rest.services import Services
from bpa.control.revisions import Edit

_Limit = Annotated[int, QueryParameter(ge=1, le=500)]


@put("/v1/deployments/{deployment_id:str}", tags=["deployments"])
async def edit_deployment(
    deployment_id: FromPath[str],
    data: JSONBody[schemas.Edit],
    services: NamedDependency[Services],
    if_match: IfMatchNeeded = None,
) -> Response[Deployment]:
    """Give a deployment another spec, as its next revision; the same spec changes nothing.

    `agentId` and `environment` make its id and stay. `queue` changes while it is paused and none of
    its runs is alive. What an edit means for living runs, `:simulate` says.
    """
    tag = demanded(if_match)
    edit = Edit(spec=data.spec, actor=data.actor, note=data.note)
    await services.revisions.edit(deployment_id, edit, tag)
    return await _edited(deployment_id, services)


@post("/v1/deployments/{deployment_id:str}/:rollback", status_code=200, tags=["deployments"])
async def roll_back_deployment(
    deployment_id: FromPath[str],
    data: JSONBody[schemas.RollBack],
    services: NamedDependency[Services],
    if_match: IfMatchNeeded = None,
) -> Response[Deployment]:
    """Give a deployment the spec of an earlier revision again, as its next one."""
    tag = demanded(if_match)
    await services.revisions.roll_back(deployment_id, data.to, data.actor, data.note, tag)
    return await _edited(deployment_id, services)


@post("/v1/deployments/{deployment_id:str}/:simulate", status_code=200, tags=["deployments"])
async def simulate_edit(
    deployment_id: FromPath[str],
    data: JSONBody[schemas.Proposed],
    services: NamedDependency[Services],
) -> schemas.Simulation:
    """Say what would come of an edit, and change nothing.

    What is wrong with each field; what it says otherwise than the present spec; and, judged by the
    planner's own constraints, which nodes of the present fleet qualify and why others do not.
    """
    found = await services.simulations.simulate(deployment_id, data.spec)
    return schemas.Simulation.of_simulation(found)


@get("/v1/deployments/{deployment_id:str}/revisions", tags=["deployments"])
async def list_revisions(
    deployment_id: FromPath[str],
    services: NamedDependency[Services],
    cursor: FromQuery[str | None] = None,
    limit: _Limit = 50,
) -> Response[schemas.RevisionPage]:
    """List what a deployment said, the latest first; the header ``Link`` leads to the next page."""
    await services.deployments.get(deployment_id)
    before = read_revision(cursor) if cursor else None
    rows = await services.revisions.page(deployment_id, before, limit + 1)
    following = cursor_of_revision(rows[limit - 1]["revision"]) if len(rows) > limit else None
    page = schemas.RevisionPage(
        revisions=[schemas.Revision.of(row) for row in rows[:limit]], next_cursor=following
    )
    path = f"/v1/deployments/{quote(deployment_id, safe='')}/revisions"
    query = urlencode({"cursor": following, "limit": limit})
    return Response(page, headers={"Link": f'<{path}?{query}>; rel="next"'} if following else {})


@get("/v1/deployments/{deployment_id:str}/revisions/{revision:int}", tags=["deployments"])
async def get_revision(
    deployment_id: FromPath[str], revision: FromPath[int], services: NamedDependency[Services]
) -> schemas.Revision:
    """Return one revision of a deployment."""
    return schemas.Revision.of(await services.revisions.get(deployment_id, revision))


async def _edited(deployment_id: str, services: Services) -> Response[Deployment]:
    services.deployments_changed()
    services.woken()
    row = await services.deployments.get(deployment_id)
    return Response(Deployment.of(row), headers={"ETag": f'"{tag_of(row)}"'})


HANDLERS = [
    edit_deployment,
    roll_back_deployment,
    simulate_edit,
    list_revisions,
    get_revision,
]
