"""The list of runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery

from bpa.control.rest.schemas import RunSummary
from bpa.ui.desk import Desk
from bpa.ui.rendering import HEADERS, AnyRequest
from bpa.ui.views import runs as view
from bpa.ui.words import segment

_PAGE = 50


@get("/runs")
async def list_runs(
    request: AnyRequest,
    desk: NamedDependency[Desk],
    q: FromQuery[str] = "",
    cursor: FromQuery[str | None] = None,
) -> Response[str]:
    """List runs, newest first; a run's id leads to its page."""
    asked = view.asked(q[:500])
    if asked.run_id:
        path = f"/ui/runs/{segment(asked.run_id)}"
        return Response("", status_code=303, headers={**HEADERS, "Location": path},
                        media_type="text/plain")  # fmt: skip
    rows, following = await desk.services.history.page(
        status=asked.status, dep_id=asked.deployment, cursor=cursor, limit=_PAGE
    )
    trend = await desk.trends.since(datetime.now(UTC) - timedelta(hours=1))
    shown = view.runs(
        [RunSummary.of(row) for row in rows],
        await desk.trends.alive(),
        trend.overall,
        asked,
        cursor=cursor,
        following=following,
    )
    return desk.render.page(request, "runs.html", view=shown)


HANDLERS = [list_runs]
