"""Deployments."""

from __future__ import annotations

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from bpa.control.rest.deployment_schemas import Deployment
from bpa.control.rest.node_schemas import Node
from bpa.control.rest.queue_schemas import Queue
from bpa.ui.desk import Desk
from bpa.ui.rendering import AnyRequest, Whole
from bpa.ui.views import deployments as view


@get("/deployments")
async def list_deployments(request: AnyRequest, desk: NamedDependency[Desk]) -> Response[str]:
    """Show what is deployed."""
    deployments = [Deployment.of(row) for row in await desk.services.deployments.page()]
    queues = [Queue.of(row) for row in await desk.services.queues.page()]
    return desk.render.page(request, "deployments.html", cards=view.cards(deployments, queues))


@get("/deployments/{deployment_id:str}")
async def show_deployment(
    request: AnyRequest, deployment_id: FromPath[str], desk: NamedDependency[Desk]
) -> Response[str]:
    """Show one deployment, and which nodes suit it."""
    deployment = Deployment.of(await desk.services.deployments.get(deployment_id))
    shown = view.deployment_page(
        deployment,
        [Queue.of(row) for row in await desk.services.queues.page()],
        [Node.of(row) for row in await desk.services.nodes.page()],
    )
    return desk.render.page(request, "deployment.html", view=shown, json=Whole(shown.json))


HANDLERS = [list_deployments, show_deployment]
