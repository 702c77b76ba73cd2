"""The application that serves ``/v1``, health, metrics, the OpenAPI document and given pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from litestar import Litestar
from litestar.connection import ASGIConnection
from litestar.di import Provide
from litestar.handlers import BaseRouteHandler
from litestar.types import ASGIApp
from litestar.types.internal_types import RouteHandlerMapItem

from bpa.control.rest import (
    agents,
    breakers,
    costs,
    dead_letters,
    deployments,
    events,
    health,
    leases,
    nodes,
    operations,
    problems,
    queues,
    revisions,
    runs,
    trends,
)
from bpa.control.rest.bodies import JsonRequest
from bpa.control.rest.edge import Edge
from bpa.control.rest.openapi import Structs, openapi_config
from bpa.control.rest.services import Services
from bpa.control.rest.verbs import verbs_of
from bpa.errors import Unavailable

__all__ = ["BODY_BYTES_MAX", "Services", "create_app"]

BODY_BYTES_MAX = 4 * 1024 * 1024
"""The size of a request's body at most; a larger one is answered 413."""

_RESOURCES = (
    nodes,
    leases,
    runs,
    dead_letters,
    operations,
    agents,
    deployments,
    revisions,
    breakers,
    queues,
    costs,
    trends,
    events,
    health,
)


class _Application(Litestar):
    @property
    def route_handler_method_map(self) -> dict[str, RouteHandlerMapItem]:
        """Leave out Litestar's own answers to OPTIONS.

        Where the methods of a path are functions of their own, it would keep the answer that it
        made for the first of them, whose ``Allow`` names that one alone.
        """
        return {
            path: {method: one for method, one in item.items() if method != "OPTIONS"}
            for path, item in super().route_handler_method_map.items()
        }


def create_app(
    services: Services,
    pages: Sequence[Any] = (),
    exception_handlers: Mapping[int | type[Exception], Any] = MappingProxyType({}),
) -> ASGIApp:
    """Return control's HTTP application; its OpenAPI document is at ``/schema``.

    Args:
        services: What REST works with.
        pages: Further handlers, which answer in a form of their own.
        exception_handlers: What answers for them before any of them is found.
    """

    def provide_services() -> Services:
        return services

    # a coroutine: for a plain function, every request would wait for a thread
    async def started(_: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        if handler.opt.get("always"):
            return
        state = services.state()
        if not state.started:
            why = "; ".join(state.reasons)
            raise Unavailable(f"this replica is starting: {why or 'come back in a moment'}")

    structs = Structs()
    app = _Application(
        [*(handler for resource in _RESOURCES for handler in resource.HANDLERS), *pages],
        guards=[started],
        dependencies={"services": Provide(provide_services, sync_to_thread=False)},
        exception_handlers={**problems.HANDLERS, **exception_handlers},
        openapi_config=openapi_config(structs),
        plugins=[structs],
        request_class=JsonRequest,
        request_max_body_size=BODY_BYTES_MAX,
        logging_config=None,
    )
    return Edge(app, verbs_of(route.path for route in app.routes))
