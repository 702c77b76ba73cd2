"""Deployments."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody

from bpa.control.actors import told
from bpa.control.deployments import tag_of
from bpa.control.rest.deployment_schemas import Deployment
from bpa.control.rest.headers import CallerInQuery, IdempotencyKey, IfMatch, expected
from bpa.control.rest.schemas import Asked
from bpa.control.rest.services import Services
from bpa.domain.specs import DeploymentSpec


@post("/v1/deployments", tags=["deployments"])
async def create_deployment(
    data: JSONBody[DeploymentSpec],
    services: NamedDependency[Services],
    idempotency_key: IdempotencyKey = None,
    requested_by: CallerInQuery = "api",
) -> Response[Deployment]:
    """Put an agent version to work on a queue; the same request again is answered alike."""
    made = Deployment.of(await services.deployments.create(data, told(requested_by)))
    services.deployments_changed()
    services.woken()
    location = f"/v1/deployments/{quote(made.deployment_id, safe='')}"
    return Response(made, headers={"Location": location})


@get("/v1/deployments", tags=["deployments"])
async def list_deployments(
    services: NamedDependency[Services], environment: FromQuery[str | None] = None
) -> list[Deployment]:
    """List deployments, of one environment or of all."""
    return [Deployment.of(row) for row in await services.deployments.page(environment)]


@get("/v1/deployments/{deployment_id:str}", tags=["deployments"])
async def get_deployment(
    deployment_id: FromPath[str], services: NamedDependency[Services]
) -> Response[Deployment]:
    """Return one deployment; its ETag guards edits of it."""
    return _tagged(await services.deployments.get(deployment_id))


@post("/v1/deployments/{deployment_id:str}/:pause", status_code=200, tags=["deployments"])
async def pause_deployment(
    deployment_id: FromPath[str],
    services: NamedDependency[Services],
    data: JSONBody[Asked | None] = None,
    if_match: IfMatch = None,
) -> Response[Deployment]:
    """Receive nothing for a deployment and start none of its runs; what runs goes on.

    Its queue keeps what comes, and stays its own. Pausing it again changes nothing. The body may
    be empty.
    """
    return await _pause(deployment_id, services, data, if_match, paused=True)


@post("/v1/deployments/{deployment_id:str}/:resume", status_code=200, tags=["deployments"])
async def resume_deployment(
    deployment_id: FromPath[str],
    services: NamedDependency[Services],
    data: JSONBody[Asked | None] = None,
    if_match: IfMatch = None,
) -> Response[Deployment]:
    """Receive and start again. The body may be empty."""
    return await _pause(deployment_id, services, data, if_match, paused=False)


async def _pause(
    deployment_id: str,
    services: Services,
    data: Asked | None,
    if_match: str | None,
    *,
    paused: bool,
) -> Response[Deployment]:
    actor = (data or Asked()).actor
    row = await services.deployments.pause(
        deployment_id, paused=paused, actor=actor, tag=expected(if_match)
    )
    services.deployments_changed()
    services.woken()
    return _tagged(row)


def _tagged(row: dict[str, Any]) -> Response[Deployment]:
    return Response(Deployment.of(row), headers={"ETag": f'"{tag_of(row)}"'})


HANDLERS = [
    create_deployment,
    list_deployments,
    get_deployment,
    pause_deployment,
    resume_deployment,
]
