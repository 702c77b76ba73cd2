"""Speak to control's REST API: one client for every command."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp
import click
import msgspec

from bpa.cli.context import addresses, loaded
from bpa.cli.events import Event, read_events
from bpa.errors import BpaError, Conflict, InvalidRequest, NotAllowed, NotFound, Unavailable

T = TypeVar("T")

_TIMEOUT_S = 35.0
_SILENCE_S = 40.0
"""A stream says something every 15 s; one that has missed two of them is dead."""
_BY_STATUS: dict[int, type[BpaError]] = {
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    412: Conflict,
    503: Unavailable,
}


class Api:
    """Control's REST API, with its problems raised as our errors.

    Every method raises ``Unavailable`` when control does not answer, and what ``_BY_STATUS`` says
    when it refuses.

    Args:
        session: A session of its own.
        url: Where control is.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url.rstrip("/")

    async def get(self, path: str, kind: type[T], **query: str | int | None) -> T:
        """Get a document of the given kind; a query of None is left out."""
        given = {name: value for name, value in query.items() if value is not None}
        return _decoded(await self._request("GET", path, params=given), kind, path)

    async def post(
        self,
        path: str,
        body: Any,
        kind: type[T],
        *,
        timeout_s: float = _TIMEOUT_S,
        if_match: str | None = None,
    ) -> T:
        """Post a document, and return the answer as the given kind.

        With ``if_match`` it is refused as a conflict where the ETag is another by now.
        """
        answer = await self._send("POST", path, body, if_match, timeout_s)
        return _decoded(answer, kind, path)

    async def put(self, path: str, body: Any, kind: type[T], *, if_match: str) -> T:
        """Put a document in the place of another, unless that has another ETag by now."""
        return _decoded(await self._send("PUT", path, body, if_match, _TIMEOUT_S), kind, path)

    async def _send(
        self, method: str, path: str, body: Any, if_match: str | None, timeout_s: float
    ) -> bytes:
        guard = {"If-Match": f'"{if_match}"'} if if_match else {}
        return await self._request(
            method,
            path,
            data=msgspec.json.encode(body),
            headers={"Content-Type": "application/json", **guard},
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        )

    async def get_bytes(self, path: str) -> bytes:
        """Get what is no document, byte for byte."""
        return await self._request("GET", path)

    @asynccontextmanager
    async def events(self, topic: str, last_id: str) -> AsyncIterator[AsyncIterator[Event]]:
        """Open the stream of changes of a topic.

        Args:
            topic: One of `bpa.control.changes.Topic`.
            last_id: Of the last event that was heard; empty for none.

        Raises:
            Unavailable: Also from within the stream, when it is cut or says nothing for too long.
        """
        path = f"/v1/events?topic={topic}"
        headers = {"Last-Event-ID": last_id} if last_id else {}
        timeout = aiohttp.ClientTimeout(total=None, connect=_TIMEOUT_S, sock_read=_SILENCE_S)
        try:
            async with self._session.get(
                self._url + path, headers=headers, timeout=timeout
            ) as response:
                if response.status >= 400:
                    raise _refusal("GET", path, response.status, await response.read())
                if response.content_type != "text/event-stream":
                    raise Unavailable(f"what answers at {path} is no stream of events")
                yield read_events(response.content)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"the stream of changes was cut: {_why(error)}") from error

    async def delete(self, path: str, **query: str) -> None:
        """Delete what is there."""
        await self._request("DELETE", path, params=query)

    async def _request(self, method: str, path: str, **options: Any) -> bytes:
        try:
            async with self._session.request(method, self._url + path, **options) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            why = f"control does not answer at {self._url}: {_why(error)}"
            raise Unavailable(why) from error
        if response.status >= 400:
            raise _refusal(method, path, response.status, answer)
        return answer


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__


def _refusal(method: str, path: str, status: int, answer: bytes) -> BpaError:
    detail, errors = _problem(answer)
    detail = detail or f"control answered {status} to {method} {path}"
    if status in _BY_STATUS:
        return _BY_STATUS[status](detail)
    if status >= 500:
        return Unavailable(detail)
    return InvalidRequest("\n".join([detail, *errors]), errors)


def _decoded(answer: bytes, kind: type[T], path: str) -> T:
    try:
        return msgspec.json.decode(answer or b"null", type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Unavailable(f"what answers at {path} is not control, or another version") from error


def _problem(answer: bytes) -> tuple[str, list[str]]:
    """Return what an answer of ``application/problem+json`` says; nothing when it is none."""
    try:
        problem = msgspec.json.decode(answer, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return "", []
    errors = problem.get("errors")
    lines = [str(error) for error in errors] if isinstance(errors, list) else []
    return str(problem.get("detail") or problem.get("title") or ""), lines


@asynccontextmanager
async def open_api_at(url: str) -> AsyncIterator[Api]:
    """Open the API at an address."""
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield Api(session, url)


@asynccontextmanager
async def open_api(context: click.Context) -> AsyncIterator[Api]:
    """Open the API of the server that these settings name.

    Raises:
        Unavailable: No server is known: none was started with this data directory.
    """
    url = loaded(context).settings.control.url or addresses(context).http
    async with open_api_at(url) as api:
        yield api
