"""The fleet, and what operators do with its nodes."""

from __future__ import annotations

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from bpa.control.rest.node_schemas import Node, NodeDetail
from bpa.domain.quantities import duration_s
from bpa.errors import InvalidRequest
from bpa.ui.desk import Desk
from bpa.ui.forms import fields_of
from bpa.ui.rendering import AnyRequest, done
from bpa.ui.session import operator_of
from bpa.ui.views import fleet as view
from bpa.words import clock, segment

_DEADLINE_MAX_S = 604_800.0


@get("/fleet")
async def show_fleet(request: AnyRequest, desk: NamedDependency[Desk]) -> Response[str]:
    """Show all nodes."""
    nodes = [Node.of(row) for row in await desk.services.nodes.page()]
    return desk.render.page(request, "fleet.html", view=view.fleet(nodes))


@get("/fleet/{node_id:str}")
async def show_node(
    request: AnyRequest, node_id: FromPath[str], desk: NamedDependency[Desk]
) -> Response[str]:
    """Show one node, what it holds, and how far its drain is."""
    row = await desk.services.nodes.get(node_id)
    leases = await desk.services.drains.remaining(node_id)
    node = NodeDetail.of({**row, "slots_used": len(leases), "leases": leases})
    return desk.render.page(request, "node.html", view=view.node_page(node))


@post("/fleet/{node_id:str}/cordon", status_code=303)
async def cordon(
    request: AnyRequest, node_id: FromPath[str], desk: NamedDependency[Desk]
) -> Response[str]:
    """Give a node no new leases."""
    taken_back = await desk.services.drains.cordon(node_id, operator_of(request).actor)
    desk.services.woken()
    return _back(node_id, f"It gets no new leases and keeps what it runs.{_offers(taken_back)}")


@post("/fleet/{node_id:str}/drain", status_code=303)
async def drain(
    request: AnyRequest, node_id: FromPath[str], desk: NamedDependency[Desk]
) -> Response[str]:
    """Have a node empty by a deadline; with ``force`` now."""
    actor, fields = operator_of(request).actor, await fields_of(request)
    deadline_s = 0.0 if "force" in fields else _deadline_s(fields.get("deadline", ""))
    drained = await desk.services.drains.drain(node_id, actor, deadline_s)
    desk.services.woken()
    said = "What it holds is handed back with its next heartbeat."
    if deadline_s != 0:
        said = f"It drains until {clock(drained.deadline_at)}."
    return _back(node_id, said + _offers(drained.taken_back))


@post("/fleet/{node_id:str}/uncordon", status_code=303)
async def uncordon(
    request: AnyRequest, node_id: FromPath[str], desk: NamedDependency[Desk]
) -> Response[str]:
    """Give a node leases again."""
    called_off = await desk.services.drains.uncordon(node_id, operator_of(request).actor)
    desk.services.woken()
    off = " Its drain is called off." if called_off else ""
    return _back(node_id, f"It gets leases again.{off}")


def _deadline_s(text: str) -> float | None:
    """Return a deadline in seconds; None keeps the present one, or takes ten minutes.

    Raises:
        InvalidRequest: It is no duration, or longer than a week.
    """
    if not text.strip():
        return None
    seconds = duration_s(text.strip())
    if not 0 <= seconds <= _DEADLINE_MAX_S:
        raise InvalidRequest("a deadline is between 0s and a week, such as 90s, 10m or 1h")
    return seconds


def _offers(taken_back: int) -> str:
    if not taken_back:
        return ""
    return f" {taken_back} offer{'' if taken_back == 1 else 's'} taken back."


def _back(node_id: str, said: str) -> Response[str]:
    return done(f"/ui/fleet/{segment(node_id)}", said)


HANDLERS = [show_fleet, show_node, cordon, drain, uncordon]
