"""Costs: what model calls used, by whatever one asks for."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery, QueryParameter

from bpa.control.ledger import LINES_MAX, By, Chosen
from bpa.control.rest.cost_schemas import BudgetsUsed, BudgetUse, Cost, Costs
from bpa.control.rest.headers import Instant, instant
from bpa.control.rest.services import Services


@get("/v1/costs", tags=["costs"])
async def sum_costs(
    services: NamedDependency[Services],
    by: FromQuery[By] = By.MODEL,
    since: Instant = None,
    until: Instant = None,
    agent: FromQuery[str | None] = None,
    deployment: FromQuery[str | None] = None,
    model: FromQuery[str | None] = None,
    cursor: FromQuery[str | None] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=LINES_MAX)] = 100,
) -> Response[Costs]:
    """Sum up what model calls used and cost, from ``since`` to before ``until``.

    Runs and attempts come newest first, ``limit`` at a time; the header ``Link`` leads to the next
    page. Days come newest first, the others dearest first, all in one answer.
    """
    since_at, until_at = instant("since", since), instant("until", until)
    chosen = Chosen(since=since_at, until=until_at, agent=agent, deployment=deployment, model=model)
    sums = await services.costs.sums(by, chosen, cursor=cursor, limit=limit)
    following = sums.following
    is_all = cursor is None and following is None and len(sums.rows) < LINES_MAX
    answer = Costs(
        by=by,
        since=since_at,
        until=until_at,
        costs=[Cost.of(row) for row in sums.rows],
        total=Cost.of(sums.total) if is_all else None,
        next_cursor=following,
    )
    asked = {
        "by": by,
        "since": since,
        "until": until,
        "agent": agent,
        "deployment": deployment,
        "model": model,
        "cursor": following,
        "limit": limit,
    }
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    links = {"Link": f'</v1/costs?{query}>; rel="next"'} if following else {}
    return Response(answer, headers=links)


@get("/v1/budgets", tags=["costs"])
async def use_of_budgets(
    services: NamedDependency[Services],
    since: Instant = None,
    until: Instant = None,
    agent: FromQuery[str | None] = None,
    deployment: FromQuery[str | None] = None,
) -> BudgetsUsed:
    """Tell how much of its budgets each run used that ended from ``since`` to before ``until``."""
    since_at, until_at = instant("since", since), instant("until", until)
    chosen = Chosen(since=since_at, until=until_at, agent=agent, deployment=deployment)
    used = [BudgetUse.of(row) for row in await services.costs.budget_use(chosen)]
    return BudgetsUsed(since=since_at, until=until_at, deployments=used)


HANDLERS = [sum_costs, use_of_budgets]
