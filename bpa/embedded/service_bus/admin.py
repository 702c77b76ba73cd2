"""The administration port: health, and the true counts of every queue."""

from __future__ import annotations

from aiohttp import web

from .broker import Broker
from .queue import DEAD_LETTER_SUFFIX


def create_app(broker: Broker) -> web.Application:
    """Build the application."""

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "healthy", "message": "Service is healthy."})

    async def queues(_: web.Request) -> web.Response:
        names = [entity.config.name for entity in broker.entities.values()]
        return web.json_response({"queues": [_describe(broker, name) for name in names]})

    app = web.Application()
    app.add_routes([web.get("/health", health), web.get("/queues", queues)])
    return app


def _describe(broker: Broker, name: str) -> dict[str, str | int]:
    path = name.lower()
    counts = broker.queues[path].counts()
    dead = broker.queues[path + DEAD_LETTER_SUFFIX].counts()
    return {
        "name": name,
        "active": counts.active,
        "locked": counts.locked,
        "dead_lettered": dead.active + dead.locked,
    }
