"""The control endpoints of the embedded target API, as the demonstration uses them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp
import msgspec

from bpa.demo.seen import SeenInvoice
from bpa.errors import Unavailable

T = TypeVar("T")

_RULES: list[dict[str, Any]] = [
    {"match": {"invoice_id": "DEMO-503-0001"}, "status": 503},
    {"match": {"invoice_id": "DEMO-422-0001"}, "status": 422},
]


class _Item(msgspec.Struct, frozen=True):
    key: str
    body: dict[str, Any]
    bodies: int = 1
    outcomes: dict[str, int] = {}


class _Page(msgspec.Struct, frozen=True):
    items: list[_Item]
    total: int
    next_cursor: str | None = None


class TargetControl:
    """The control endpoints of the embedded target API.

    Args:
        session: To speak over.
        url: The target's base address.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = f"{url}/_target"

    @asynccontextmanager
    async def failing(self) -> AsyncIterator[None]:
        """Have it fail for the two documents that demand it; afterwards do as before."""
        before = await self._call("GET", "script", dict[str, Any])
        rules = [told["rule"] for told in before["rules"]]
        await self._call("PUT", "script", dict[str, Any], {"rules": [*_RULES, *rules]})
        try:
            yield
        finally:
            await self._call("PUT", "script", dict[str, Any], {"rules": rules})

    async def count(self) -> int:
        """Return how many invoices it has applied so far."""
        return (await self._call("GET", "received?limit=1", _Page)).total

    async def received(self, after: int) -> list[SeenInvoice]:
        """Return what it applied after the first ``after`` invoices."""
        cursor: str | None = str(after)
        items: list[_Item] = []
        while cursor is not None:
            page = await self._call("GET", f"received?limit=500&cursor={cursor}", _Page)
            items += page.items
            cursor = page.next_cursor
        return [
            SeenInvoice(
                key=item.key,
                body=item.body,
                bodies=item.bodies,
                applied=max(1, item.outcomes.get("applied", 1)),
            )
            for item in items
        ]

    async def _call(self, method: str, what: str, kind: type[T], body: object = None) -> T:
        data = None if body is None else msgspec.json.encode(body)
        try:
            async with self._session.request(method, f"{self._url}/{what}", data=data) as response:
                answer = await response.read()
                response.raise_for_status()
            return msgspec.json.decode(answer, type=kind)
        except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError) as error:
            raise Unavailable(f"the target API does not answer at {self._url}: {error}") from error
