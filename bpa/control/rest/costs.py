"""Costs: what model calls used, by whatever one asks for."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery, QueryParameter

from bpa.control.ledger import LINES_MAX, By, Chosen, total_of
from bpa.control.rest.cost_schemas import Cost, Costs
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
    rows, following = await services.costs.sums(by, chosen, cursor=cursor, limit=limit)
    is_all = cursor is None and following is None and len(rows) < LINES_MAX
    answer = Costs(
        by=by,
        since=since_at,
        until=until_at,
        costs=[Cost.of(row) for row in rows],
        total=Cost.of(total_of(rows)) if is_all else None,
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


HANDLERS = [sum_costs]
