"""The list of runs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery

from bpa.control.rest.run_schemas import RunSummary
from bpa.control.search import QUALIFIERS, QUERY_CHARS_MAX, read_search
from bpa.errors import InvalidRequest
from bpa.ui.desk import Desk
from bpa.ui.rendering import AnyRequest
from bpa.ui.views import runs as view

_PAGE = 100


@get("/runs")
async def list_runs(
    request: AnyRequest,
    desk: NamedDependency[Desk],
    q: FromQuery[str] = "",
    cursor: FromQuery[str | None] = None,
) -> Response[str]:
    """List runs, newest first, all or those that a search finds."""
    now = datetime.now(UTC)
    rows: list[dict[str, Any]] = []
    following = number = None
    asked = view.Asked(q[:QUERY_CHARS_MAX])
    searches = desk.services.searches
    try:
        search = read_search(asked.text, now)
        rows, following = await searches.page(search, cursor=cursor, limit=_PAGE)
        number = await searches.count(search) if asked.text and not cursor else None
    except InvalidRequest as error:
        asked = replace(asked, problem=str(error))
    trend = await desk.services.trends.last_hour()
    shown = view.runs(
        [RunSummary.of(row) for row in rows],
        await desk.services.trends.alive(),
        trend.overall,
        asked,
        number=number,
        cursor=cursor,
        following=following,
    )
    return desk.render.page(request, "runs.html", view=shown, qualifiers=QUALIFIERS)


HANDLERS = [list_runs]
