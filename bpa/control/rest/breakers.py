"""Breakers: which targets fail, and what waits for them."""

from __future__ import annotations

from litestar import get
from litestar.di import NamedDependency

from bpa.control.rest.breaker_schemas import Breaker
from bpa.control.rest.services import Services


@get("/v1/breakers", tags=["breakers"])
async def list_breakers(services: NamedDependency[Services]) -> list[Breaker]:
    """List the circuit breakers of all hosts that have failed, those that are not closed first."""
    return [Breaker.of(row) for row in await services.breakers.page()]


HANDLERS = [list_breakers]
