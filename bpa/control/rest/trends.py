"""How things are, and how the last hour went: what the overview shows."""

from __future__ import annotations

from datetime import UTC, datetime

from litestar import get
from litestar.di import NamedDependency

from bpa.control.rest.breaker_schemas import Breaker
from bpa.control.rest.concerns import concerns_of
from bpa.control.rest.node_schemas import Node
from bpa.control.rest.queue_schemas import Queue
from bpa.control.rest.services import Services
from bpa.control.rest.trend_schemas import Alive, Period, Status, Trends, lag_of


@get("/v1/trends", tags=["overview"])
async def get_trends(services: NamedDependency[Services]) -> Trends:
    """Tell how the last hour went, minute by minute: throughput, latency, cost, backlog.

    It is summed up once for all who ask, with many runs some seconds ago.
    """
    trend = await services.trends.last_hour()
    queues = [Queue.of(row) for row in await services.queues.page()]
    lag = lag_of(queues, await services.trends.alive())
    return Trends.told(trend, lag, datetime.now(UTC))


@get("/v1/status", tags=["overview"])
async def get_status(services: NamedDependency[Services]) -> Status:
    """Tell what needs somebody, where runs are, and how the last hour went as a whole."""
    now = datetime.now(UTC)
    queues = [Queue.of(row) for row in await services.queues.page()]
    alive = await services.trends.alive()
    return Status(
        at=now,
        concerns=concerns_of(
            queues,
            [Breaker.of(row) for row in await services.breakers.page()],
            [Node.of(row) for row in await services.nodes.page()],
            alive,
            now,
        ),
        unreceived=lag_of(queues, alive).unreceived,
        alive=[Alive.of(row) for row in alive],
        last_hour=Period.of((await services.trends.last_hour()).overall),
    )


HANDLERS = [get_trends, get_status]
"""What REST says of how things are."""
