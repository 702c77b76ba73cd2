"""The admin UI as routes under ``/ui``, for control's HTTP application to serve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from litestar import Request, Response, Router, get
from litestar.di import Provide
from litestar.exceptions import MethodNotAllowedException, NotFoundException
from litestar.types import ASGIApp

from bpa.control.rest.services import Services
from bpa.ui.assets import read_assets
from bpa.ui.desk import Desk
from bpa.ui.origin import ours_alone
from bpa.ui.pages import (
    costs,
    dead_letters,
    deployments,
    fleet,
    many_runs,
    operations,
    overview,
    policy,
    replays,
    run,
    runs,
    static,
)
from bpa.ui.problems import handlers_of, nowhere_of
from bpa.ui.rendering import Renderer
from bpa.ui.sharing import Sharing
from bpa.ui.views.run_facts import Outside

_PAGES = (
    overview, runs, many_runs, operations, run, fleet, dead_letters, replays, deployments, policy,
    costs, static,
)  # fmt: skip
_NOWHERE = (NotFoundException, MethodNotAllowedException)
_ROOT = "/ui"
_FORM_BYTES_MAX = 2 * 1024 * 1024


@get("/", include_in_schema=False, opt={"always": True}, sync_to_thread=False)
def front() -> Response[str]:
    """Send whoever asks for nothing to the pages."""
    return Response("", status_code=307, headers={"Location": "/ui"}, media_type="text/plain")


@dataclass(frozen=True, slots=True)
class Ui:
    """What control's HTTP application serves beside REST."""

    handlers: Sequence[Any]
    exception_handlers: Mapping[int | type[Exception], Any]
    """For paths that no handler has: who looks for a page is answered with one."""
    sharing: Callable[[ASGIApp], ASGIApp]
    """Has the application make for all tabs at once what they all show."""


def pages(services: Services, environment: str, outside: Outside) -> Ui:
    """Return all pages.

    Args:
        services: Control's.
        environment: The name of what is served.
        outside: Where others keep traces and log lines.

    Raises:
        StartupError: htmx's package is not there.
    """
    assets = read_assets()
    renderer = Renderer(assets, environment)
    desk = Desk(services, assets, renderer, environment, outside)

    def provide_desk() -> Desk:
        return desk

    router = Router(
        _ROOT,
        route_handlers=[handler for page in _PAGES for handler in page.HANDLERS],
        dependencies={"desk": Provide(provide_desk, sync_to_thread=False)},
        exception_handlers=handlers_of(renderer),
        guards=[ours_alone],
        request_class=Request,
        request_max_body_size=_FORM_BYTES_MAX,
        include_in_schema=False,
    )
    nowhere = nowhere_of(renderer, _ROOT)
    return Ui(
        [front, router],
        dict.fromkeys(_NOWHERE, nowhere),
        lambda app: Sharing(app, _ROOT, services.changes.last_id, run.NOTED),
    )
