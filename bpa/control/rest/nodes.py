"""Nodes: registered, alive by heartbeats; cordoned and drained by operators."""

from __future__ import annotations

from litestar import delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from bpa.control.actors import told
from bpa.control.rest.headers import CallerInQuery
from bpa.control.rest.lease_schemas import Heartbeat, HeldLease, Registered, Renewed
from bpa.control.rest.node_schemas import (
    DrainAsked,
    Node,
    NodeCordoned,
    NodeDetail,
    NodeDrained,
    NodeUncordoned,
)
from bpa.control.rest.schemas import Asked
from bpa.control.rest.services import Services
from bpa.domain.runs import NodeId, RunId
from bpa.domain.specs import NodeSpec
from bpa.errors import NotFound


@post("/v1/nodes/:register", status_code=200, tags=["nodes"])
async def register_node(
    data: JSONBody[NodeSpec], services: NamedDependency[Services]
) -> Registered:
    """Announce a node; a new boot id ends the leases of the old one, but no cordon and no drain."""
    registration = await services.nodes.register(data)
    services.woken()
    return Registered(
        heartbeat_every_s=services.heartbeat_every_s,
        lease_ttl_s=services.leases.ttl_s,
        cordoned=registration.cordoned,
        draining=registration.draining,
    )


@post("/v1/nodes/{node_id:str}/:heartbeat", status_code=200, tags=["nodes"])
async def send_heartbeat(
    node_id: FromPath[str], data: JSONBody[Heartbeat], services: NamedDependency[Services]
) -> Renewed:
    """Renew, in one batch, what a node holds; what is lost must be stopped.

    A run in ``cancel`` is to be ended: report it with ``:fail`` as rejected with the reason
    ``Cancelled``, or with ``:complete`` if its effect was applied.

    With ``handBack``, what is held is to be ended as well, and reported as ``handed_back``. A node
    that is not known by this boot id gets 404 and registers again.
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
        cancel=[*renewal.cancel],
        cordoned=renewal.cordoned,
        draining=renewal.draining,
        hand_back=renewal.hand_back,
    )


@get("/v1/nodes", tags=["nodes"])
async def list_nodes(services: NamedDependency[Services]) -> list[Node]:
    """List the nodes of the fleet."""
    return [Node.of(row) for row in await services.nodes.page()]


@get("/v1/nodes/{node_id:str}", tags=["nodes"])
async def get_node(node_id: FromPath[str], services: NamedDependency[Services]) -> NodeDetail:
    """Return one node with the leases it holds, and how far each run has come."""
    return await _detail(node_id, services)


@post("/v1/nodes/{node_id:str}/:drain", status_code=200, tags=["nodes"])
async def drain_node(
    node_id: FromPath[str],
    services: NamedDependency[Services],
    data: JSONBody[DrainAsked | None] = None,
) -> NodeDrained:
    """Cordon a node and have it empty by a deadline; a node that drains gets the new deadline.

    Once this is answered, the node gets no new lease. What runs may end until the deadline; what is
    left then is handed back, which costs a run no attempt, and goes on elsewhere by its journal.
    The node stays cordoned until ``:uncordon``, restarts included. The body may be empty.
    """
    asked = data or DrainAsked()
    drained = await services.drains.drain(node_id, asked.actor, asked.deadline_s)
    services.woken()
    node = await _detail(node_id, services)
    return NodeDrained(
        node=node,
        taken_back=drained.taken_back,
        deadline_before=drained.deadline_before,
        empty_within_s=services.drains.empty_within_s(node.drain.left_s if node.drain else 0.0),
    )


@post("/v1/nodes/{node_id:str}/:cordon", status_code=200, tags=["nodes"])
async def cordon_node(
    node_id: FromPath[str],
    services: NamedDependency[Services],
    data: JSONBody[Asked | None] = None,
) -> NodeCordoned:
    """Give a node no new leases; it keeps what it runs, and a drain goes on.

    The body may be empty.
    """
    taken_back = await services.drains.cordon(node_id, (data or Asked()).actor)
    services.woken()
    return NodeCordoned(node=await _detail(node_id, services), taken_back=taken_back)


@post("/v1/nodes/{node_id:str}/:uncordon", status_code=200, tags=["nodes"])
async def uncordon_node(
    node_id: FromPath[str],
    services: NamedDependency[Services],
    data: JSONBody[Asked | None] = None,
) -> NodeUncordoned:
    """Give a node leases again; a drain that is under way is called off.

    The body may be empty.
    """
    called_off = await services.drains.uncordon(node_id, (data or Asked()).actor)
    services.woken()
    return NodeUncordoned(node=await _detail(node_id, services), called_off=called_off)


@delete("/v1/nodes/{node_id:str}", status_code=204, tags=["nodes"])
async def forget_node(
    node_id: FromPath[str],
    services: NamedDependency[Services],
    requested_by: CallerInQuery = "api",
) -> None:
    """Take a node that has ended out of the fleet, with its cordon.

    One that was heard of within two heartbeats, or still holds a lease, gets 409.
    """
    await services.drains.forget(node_id, told(requested_by), 2 * services.heartbeat_every_s)


async def _detail(node_id: str, services: Services) -> NodeDetail:
    row = await services.nodes.get(node_id)
    leases = await services.drains.remaining(node_id)
    return NodeDetail.of({**row, "slots_used": len(leases), "leases": leases})


HANDLERS = [
    register_node,
    send_heartbeat,
    list_nodes,
    get_node,
    drain_node,
    cordon_node,
    uncordon_node,
    forget_node,
]
