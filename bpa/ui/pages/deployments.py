"""Deployments."""

from __future__ import annotations

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from bpa.control.rest.deployment_schemas import Deployment
from bpa.control.rest.node_schemas import Node
from bpa.control.rest.queue_schemas import Queue
from bpa.ui.desk import Desk
from bpa.ui.forms import fields_of
from bpa.ui.rendering import AnyRequest, Whole, done
from bpa.ui.session import operator_of
from bpa.ui.views import deployments as view
from bpa.words import segment


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


@post("/deployments/{deployment_id:str}/pause", status_code=303)
async def pause(
    request: AnyRequest, deployment_id: FromPath[str], desk: NamedDependency[Desk]
) -> Response[str]:
    """Receive and start nothing for a deployment."""
    await _pause(request, desk, deployment_id, paused=True)
    return _back(deployment_id, "It receives and starts nothing; what runs goes on.")


@post("/deployments/{deployment_id:str}/resume", status_code=303)
async def resume(
    request: AnyRequest, deployment_id: FromPath[str], desk: NamedDependency[Desk]
) -> Response[str]:
    """Receive and start again."""
    await _pause(request, desk, deployment_id, paused=False)
    return _back(deployment_id, "It receives and starts again.")


async def _pause(request: AnyRequest, desk: Desk, deployment_id: str, *, paused: bool) -> None:
    actor, fields = operator_of(request).actor, await fields_of(request)
    tag = fields.get("etag") or None
    await desk.services.deployments.pause(deployment_id, paused=paused, actor=actor, tag=tag)
    desk.services.deployments_changed()
    desk.services.woken()


def _back(deployment_id: str, said: str) -> Response[str]:
    return done(f"/ui/deployments/{segment(deployment_id)}", said)


HANDLERS = [list_deployments, show_deployment, pause, resume]
