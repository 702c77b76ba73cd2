"""The admin UI as routes under ``/ui``, for control's HTTP application to serve."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, Router, get, route
from litestar.di import Provide
from litestar.exceptions import NotFoundException

from bpa.control.rest.services import Services
from bpa.control.trends import Trends
from bpa.ui.assets import read_assets
from bpa.ui.desk import Desk
from bpa.ui.origin import ours_alone
from bpa.ui.pages import (
    costs,
    dead_letters,
    deployments,
    fleet,
    overview,
    replays,
    run,
    runs,
    static,
)
from bpa.ui.problems import handlers_of
from bpa.ui.rendering import Renderer

_PAGES = (overview, runs, run, fleet, dead_letters, replays, deployments, costs, static)
_FORM_BYTES_MAX = 2 * 1024 * 1024


@get("/", include_in_schema=False, opt={"always": True}, sync_to_thread=False)
def front() -> Response[str]:
    """Send whoever asks for nothing to the pages."""
    return Response("", status_code=307, headers={"Location": "/ui"}, media_type="text/plain")


@route("/{rest:path}", http_method=["GET", "POST"], sync_to_thread=False)
def nowhere(rest: str) -> Response[str]:
    """Answer for paths that are none, with a page and not with a document."""
    raise NotFoundException("there is no such page; the links above lead to those there are")


def pages(services: Services, trends: Trends, environment: str) -> list[Any]:
    """Return the handlers of all pages.

    Args:
        services: Control's.
        trends: How the last hour went.
        environment: The name of what is served.

    Raises:
        StartupError: htmx's package is not there.
    """
    assets = read_assets()
    renderer = Renderer(assets, environment)
    desk = Desk(services, trends, assets, renderer, environment)

    def provide_desk() -> Desk:
        return desk

    return [
        front,
        Router(
            "/ui",
            route_handlers=[*(handler for page in _PAGES for handler in page.HANDLERS), nowhere],
            dependencies={"desk": Provide(provide_desk, sync_to_thread=False)},
            exception_handlers=handlers_of(renderer),
            guards=[ours_alone],
            request_class=Request,
            request_max_body_size=_FORM_BYTES_MAX,
            include_in_schema=False,
        ),
    ]
