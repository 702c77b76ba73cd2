"""The administration port: the API of the SDKs' administration clients, and pages of our own.

``/health``, ``/queues`` (counts) and ``/metrics`` take no token and, as the API's clients always
name its version, cannot be mistaken for a queue.
"""

from __future__ import annotations

import msgspec
from aiohttp import web

from .administration import LARGEST_BODY_BYTES, Administration
from .broker import Broker
from .counts import page
from .metrics import CONTENT_TYPE, Metrics


def create_app(broker: Broker, metrics: Metrics) -> web.Application:
    """Build the application."""

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "healthy", "message": "Service is healthy."})

    async def queues(_: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(page(broker)), content_type="application/json")

    async def prometheus(_: web.Request) -> web.Response:
        return web.Response(body=await metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    administration = Administration(broker)
    own = {"health": health, "queues": queues, "metrics": prometheus}

    async def own_or_queue(request: web.Request) -> web.StreamResponse:
        page_of_ours = own.get(request.match_info["path"])
        if page_of_ours and request.method == "GET" and "api-version" not in request.query:
            return await page_of_ours(request)
        return await administration.answer(request)

    app = web.Application(client_max_size=LARGEST_BODY_BYTES)
    app.router.add_route("*", "/{path:.*}", own_or_queue)
    return app
