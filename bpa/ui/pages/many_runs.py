"""Many runs at once: all that a search finds, or those of them that somebody marks."""

from __future__ import annotations

from datetime import UTC, datetime

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery

from bpa.control.rest.run_schemas import RunSummary
from bpa.control.search import read_search
from bpa.ui.desk import Desk
from bpa.ui.rendering import AnyRequest
from bpa.ui.views import many_runs as view

AT_MOST = 100
"""Runs that can be marked; all of them are acted on as well."""


@get("/runs/many")
async def choose(
    request: AnyRequest, desk: NamedDependency[Desk], q: FromQuery[str] = "status:active"
) -> Response[str]:
    """List what a search finds at this moment; its forms start operations."""
    rows, more = await desk.services.searches.page(read_search(q, datetime.now(UTC)), limit=AT_MOST)
    shown = view.choice([RunSummary.of(row) for row in rows], q, is_all=more is None)
    return desk.render.page(request, "many_runs.html", view=shown)


HANDLERS = [choose]
