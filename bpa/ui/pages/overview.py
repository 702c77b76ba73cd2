"""The first page: what needs somebody, and how the last hour went."""

from __future__ import annotations

from datetime import UTC, datetime

from litestar import Response, get
from litestar.di import NamedDependency

from bpa.control.rest.breaker_schemas import Breaker
from bpa.control.rest.node_schemas import Node
from bpa.control.rest.queue_schemas import Queue
from bpa.ui.desk import Desk
from bpa.ui.rendering import AnyRequest
from bpa.ui.views import overview as view


@get("/")
async def overview(request: AnyRequest, desk: NamedDependency[Desk]) -> Response[str]:
    """Show what needs attention, where runs are, and the charts of the last hour."""
    services, now = desk.services, datetime.now(UTC)
    known = view.Known(
        queues=[Queue.of(row) for row in await services.queues.page()],
        breakers=[Breaker.of(row) for row in await services.breakers.page()],
        nodes=[Node.of(row) for row in await services.nodes.page()],
        alive=await services.trends.alive(),
        trend=await services.trends.last_hour(),
    )
    return desk.render.page(request, "overview.html", view=view.overview(known, now))


HANDLERS = [overview]
