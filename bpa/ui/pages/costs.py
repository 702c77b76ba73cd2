"""Costs."""

from __future__ import annotations

from datetime import UTC, datetime

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery

from bpa.control.ledger import By
from bpa.control.rest.cost_schemas import BudgetUse, Cost
from bpa.errors import InvalidRequest
from bpa.ui.desk import Desk
from bpa.ui.rendering import AnyRequest
from bpa.ui.views import costs as view


@get("/costs")
async def show_costs(
    request: AnyRequest,
    desk: NamedDependency[Desk],
    by: FromQuery[str] = By.DEPLOYMENT.value,
    since: FromQuery[str] = view.PERIOD,
    until: FromQuery[str] = "",
    agent: FromQuery[str] = "",
    deployment: FromQuery[str] = "",
    model: FromQuery[str] = "",
) -> Response[str]:
    """Show what model calls cost, and how much of their budgets runs used."""
    if by not in view.BYS:
        raise InvalidRequest("costs are shown by agent, deployment, model or day")
    asked = view.Asked(By(by), since.strip(), until.strip(), agent, deployment, model)
    chosen, costs = asked.chosen(datetime.now(UTC)), desk.services.costs
    sums = await costs.sums(asked.by, chosen)
    known = view.Known(
        agents=await desk.services.agents.versions(),
        deployments=[row["dep_id"] for row in await desk.services.deployments.page()],
    )
    shown = view.cost_page(
        asked,
        known,
        [Cost.of(row) for row in sums.rows],
        Cost.of(sums.total),
        [BudgetUse.of(row) for row in await costs.budget_use(chosen)],
    )
    return desk.render.page(request, "costs.html", view=shown)


HANDLERS = [show_costs]
