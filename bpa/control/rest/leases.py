"""Leases over REST, for nodes where gRPC cannot go: a bounded long poll, then reports."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from litestar import Request, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.types import Receive

from bpa.control.rest.lease_schemas import Fenced, Pull, Pulled, Refused
from bpa.control.rest.services import Services, run_id_in_path
from bpa.domain.runs import NodeId
from bpa.errors import NotFound

T = TypeVar("T")


@post("/v1/lease/pull", status_code=200, tags=["leases"])
async def pull_leases(
    data: JSONBody[Pull], services: NamedDependency[Services], request: Request[Any, Any, Any]
) -> Pulled:
    """Wait, at most ``waitS`` seconds, for leases; each must be acknowledged.

    What is not acknowledged when the node polls again comes again under the same epoch. Bytes
    (``document``, a step's ``intent`` and ``answer``) are base64.
    """
    node = await services.nodes.get(data.node_id)
    if node["boot_id"] != data.boot_id:
        raise NotFound(f"node {data.node_id!r} is not registered with this boot id; register")
    offers = services.offers.pull(NodeId(data.node_id), data.boot_id, data.wait_s, data.max)
    return Pulled(leases=await _unless_gone(request.receive, offers) or [])


@post("/v1/runs/{run_id:str}/:acknowledge", status_code=204, tags=["leases"])
async def acknowledge_lease(
    run_id: FromPath[str], data: JSONBody[Fenced], services: NamedDependency[Services]
) -> None:
    """Take a lease that was offered; only then may the run start."""
    await services.fenced(services.leases.acknowledge(run_id_in_path(run_id), data.epoch))


@post("/v1/runs/{run_id:str}/:refuse", status_code=204, tags=["leases"])
async def refuse_lease(
    run_id: FromPath[str], data: JSONBody[Refused], services: NamedDependency[Services]
) -> None:
    """Give an offer back, at no cost to the run."""
    await services.fenced(services.leases.refuse(run_id_in_path(run_id), data.epoch, data.why))


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """Return what ``work`` returns, or None as soon as the client is gone or the server closes.

    Both tasks end here, whatever happens; an error of ``work`` passes through as it is.
    """
    wanted = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({wanted, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        wanted.cancel()
        gone.cancel()
        await asyncio.wait({wanted, gone})
    return None if wanted.cancelled() else wanted.result()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


HANDLERS = [pull_leases, acknowledge_lease, refuse_lease]
