"""The administration port: the API of the SDKs' administration clients, health, and counts."""

from __future__ import annotations

from aiohttp import web

from .administration import LARGEST_BODY_BYTES, Administration
from .broker import Broker
from .queue import DEAD_LETTER_SUFFIX


def create_app(broker: Broker) -> web.Application:
    """Build the application."""

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "healthy", "message": "Service is healthy."})

    async def queues(_: web.Request) -> web.Response:
        names = [entity.config.name for entity in broker.entities.values()]
        return web.json_response({"queues": [_describe(broker, name) for name in names]})

    administration = Administration(broker)

    async def own_or_queue(request: web.Request) -> web.StreamResponse:
        own = {"health": health, "queues": queues}.get(request.match_info["path"])
        if own is not None and request.method == "GET" and "api-version" not in request.query:
            return await own(request)
        return await administration.answer(request)

    app = web.Application(client_max_size=LARGEST_BODY_BYTES)
    app.router.add_route("*", "/{path:.*}", own_or_queue)
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
