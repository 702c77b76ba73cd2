"""Queues: what waits in those that are fed from."""

from __future__ import annotations

from litestar import get
from litestar.di import NamedDependency

from bpa.control.rest.queue_schemas import Queue
from bpa.control.rest.services import Services


@get("/v1/queues", tags=["queues"])
async def list_queues(services: NamedDependency[Services]) -> list[Queue]:
    """List the queues that active deployments feed from: how much waits, and how old it is.

    The numbers are those of the last reading, which one of the replicas makes every 20 s
    (``control.measure_queues_every_s``); the broker is not asked here.
    """
    return [Queue.of(row) for row in await services.queues.page()]


HANDLERS = [list_queues]
