"""Costs."""

from __future__ import annotations

from datetime import UTC, datetime

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery

from bpa.control.ledger import By, Chosen, total_of
from bpa.control.rest.cost_schemas import Cost
from bpa.errors import InvalidRequest
from bpa.ui.desk import Desk
from bpa.ui.rendering import AnyRequest
from bpa.ui.views import costs as view


@get("/costs")
async def show_costs(
    request: AnyRequest,
    desk: NamedDependency[Desk],
    by: FromQuery[str] = By.DEPLOYMENT.value,
    since: FromQuery[str] = "1d",
) -> Response[str]:
    """Show what model calls cost."""
    if by not in view.BYS or since not in view.PERIODS:
        raise InvalidRequest("costs are shown by agent, deployment, model or day, since 1h to 30d")
    began = view.since_of(since, datetime.now(UTC))
    rows, _ = await desk.services.costs.sums(By(by), Chosen(since=began))
    totals = await desk.services.history.totals(began)
    shown = view.cost_page(
        [Cost.of(row) for row in rows],
        Cost.of(total_of(rows)),
        view.completed_of(totals),
        By(by),
        since,
    )
    return desk.render.page(request, "costs.html", view=shown)


HANDLERS = [show_costs]
