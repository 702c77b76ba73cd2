"""Health and metrics, for orchestrators and Prometheus."""

from __future__ import annotations

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec

from bpa.control.readiness import State
from bpa.control.rest.schemas import Health
from bpa.control.rest.services import Services
from bpa.telemetry.metrics import CONTENT_TYPE, exposition

_ALWAYS = {"always": True}
"""Served before the schema is in place, too."""
_NOT_YET = {503: ResponseSpec(Health, generate_examples=False, description="Not yet.")}


@get("/livez", tags=["health"], opt=_ALWAYS, sync_to_thread=False)
def livez() -> Health:
    """Say that the process is alive, whatever it depends on."""
    return Health(status="alive")


@get("/readyz", tags=["health"], opt=_ALWAYS, responses=_NOT_YET, sync_to_thread=False)
def readyz(services: NamedDependency[Services]) -> Response[Health]:
    """Say whether the stores and the clock are as they should, and which are not: 200 or 503."""
    state = services.state()
    return _answer(state, is_good=state.is_ready, otherwise="not ready")


@get("/startupz", tags=["health"], opt=_ALWAYS, responses=_NOT_YET, sync_to_thread=False)
def startupz(services: NamedDependency[Services]) -> Response[Health]:
    """Say whether the start is over, the schema in place: 200 or 503, and what it waits for."""
    state = services.state()
    return _answer(state, is_good=state.started, otherwise="starting")


@get("/metrics", tags=["health"], opt=_ALWAYS, media_type=CONTENT_TYPE, sync_to_thread=False)
def metrics(services: NamedDependency[Services]) -> Response[bytes]:
    """Return the process's metrics in Prometheus's text format."""
    return Response(exposition(services.metrics), media_type=CONTENT_TYPE)


def _answer(state: State, *, is_good: bool, otherwise: str) -> Response[Health]:
    body = Health(
        status="ready" if is_good else otherwise, reasons=state.reasons, degraded=state.degraded
    )
    return Response(body, status_code=200 if is_good else 503)


HANDLERS = [livez, readyz, startupz, metrics]
