"""Speak to control's REST API: one client for every command."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import click

from bpa.cli.context import addresses, loaded
from bpa.errors import BpaError, Conflict, InvalidRequest, NotFound, Unavailable

_TIMEOUT_S = 35.0
_BY_STATUS: dict[int, type[BpaError]] = {404: NotFound, 409: Conflict, 503: Unavailable}


class Api:
    """Control's REST API, with its problems raised as our errors."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, path: str, **query: str) -> Any:
        """Get a document."""
        return await self._request("GET", path, params=query)

    async def post(self, path: str, body: Any) -> Any:
        """Post a document."""
        return await self._request("POST", path, json=body)

    async def _request(self, method: str, path: str, **options: Any) -> Any:
        try:
            async with self._session.request(method, path, **options) as response:
                answer = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            base = self._session._base_url  # noqa: SLF001 - for the message
            raise Unavailable(f"control does not answer at {base}: {error}") from error
        if response.status < 400:
            return answer
        detail = str(answer.get("detail") or answer.get("title") or response.reason)
        if response.status in _BY_STATUS:
            raise _BY_STATUS[response.status](detail)
        raise InvalidRequest(detail, answer.get("errors") or [])


@asynccontextmanager
async def open_api(context: click.Context) -> AsyncIterator[Api]:
    """Open the API of the server that these settings name.

    Raises:
        Unavailable: No server is known: none was started with this data directory.
    """
    url = loaded(context).settings.control.url or addresses(context).http
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(url, timeout=timeout) as session:
        yield Api(session)
