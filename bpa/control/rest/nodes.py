"""Nodes: registered, alive by heartbeats."""

from __future__ import annotations

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from bpa.control.rest.schemas import Heartbeat, HeldLease, Node, Registered, Renewed
from bpa.control.rest.services import Services
from bpa.domain import NodeId, NodeSpec, RunId
from bpa.errors import NotFound


@post("/v1/nodes/:register", status_code=200, tags=["nodes"])
async def register_node(
    data: JSONBody[NodeSpec], services: NamedDependency[Services]
) -> Registered:
    """Announce a node; a new boot id ends the leases of the old one."""
    await services.nodes.register(data)
    services.woken()
    return Registered(
        heartbeat_every_s=services.heartbeat_every_s, lease_ttl_s=services.leases.ttl_s
    )


@post("/v1/nodes/{node_id:str}/:heartbeat", status_code=200, tags=["nodes"])
async def heartbeat(
    node_id: FromPath[str], data: JSONBody[Heartbeat], services: NamedDependency[Services]
) -> Renewed:
    """Renew, in one batch, what a node holds; what is lost must be stopped.

    A node that is not known by this boot id gets 404 and registers again.
    """
    held = [(RunId(str(one.run_id)), one.epoch) for one in data.held]
    renewal = await services.leases.renew(
        NodeId(node_id), data.boot_id, held, closing=data.draining
    )
    if not renewal.known:
        raise NotFound(f"node {node_id!r} is not registered with this boot id; register")
    return Renewed(
        renewed=[HeldLease.of_pair(*pair) for pair in renewal.renewed],
        lost=[HeldLease.of_pair(*pair) for pair in renewal.lost],
        draining=renewal.draining,
    )


@get("/v1/nodes", tags=["nodes"])
async def list_nodes(services: NamedDependency[Services]) -> list[Node]:
    """List the nodes of the fleet."""
    return [Node.of(row) for row in await services.nodes.page()]


@get("/v1/nodes/{node_id:str}", tags=["nodes"])
async def get_node(node_id: FromPath[str], services: NamedDependency[Services]) -> Node:
    """Return one node."""
    return Node.of(await services.nodes.get(node_id))


HANDLERS = [register_node, heartbeat, list_nodes, get_node]
