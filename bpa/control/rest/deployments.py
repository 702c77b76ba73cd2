"""Deployments."""

from __future__ import annotations

from urllib.parse import quote

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody

from bpa.control.rest.headers import IdempotencyKey
from bpa.control.rest.schemas import Deployment
from bpa.control.rest.services import Services
from bpa.domain import DeploymentSpec


@post("/v1/deployments", tags=["deployments"])
async def create_deployment(
    data: JSONBody[DeploymentSpec],
    services: NamedDependency[Services],
    idempotency_key: IdempotencyKey = None,
) -> Response[Deployment]:
    """Put an agent version to work on a queue; the same request again is answered alike."""
    made = Deployment.of(await services.deployments.create(data))
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
) -> Deployment:
    """Return one deployment."""
    return Deployment.of(await services.deployments.get(deployment_id))


HANDLERS = [create_deployment, list_deployments, get_deployment]
