"""Health and metrics, for orchestrators and Prometheus."""

from __future__ import annotations

from litestar import Response, get
from litestar.di import NamedDependency
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from bpa.control.rest.schemas import Health
from bpa.control.rest.services import Services


@get("/livez", tags=["health"], sync_to_thread=False)
def livez() -> Health:
    """Say that the process is alive, whatever it depends on."""
    return Health(status="alive")


@get("/readyz", tags=["health"])
async def readyz(services: NamedDependency[Services]) -> Response[Health]:
    """Say whether the stores answer, and which do not: 200 or 503."""
    return _answer(await services.ready())


@get("/startupz", tags=["health"])
async def startupz(services: NamedDependency[Services]) -> Response[Health]:
    """Say whether the start is over: 200 or 503."""
    return _answer(await services.ready())


@get("/metrics", tags=["health"], sync_to_thread=False)
def metrics(services: NamedDependency[Services]) -> Response[bytes]:
    """Return the process's metrics in Prometheus's text format."""
    text = generate_latest(services.metrics.registry)
    kind, _, _ = CONTENT_TYPE_LATEST.rpartition(";")  # the framework adds the charset again
    return Response(text, media_type=kind)


def _answer(reasons: list[str]) -> Response[Health]:
    body = Health(status="not ready" if reasons else "ready", reasons=reasons)
    return Response(body, status_code=503 if reasons else 200)


HANDLERS = [livez, readyz, startupz, metrics]
