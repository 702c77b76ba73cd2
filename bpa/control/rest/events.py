"""Changes as server-sent events: which of what a page shows it should ask for again."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from litestar import Request, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import FromQuery, HeaderParameter
from litestar.response import Stream
from litestar.response.base import ASGIResponse
from litestar.response.streaming import ASGIStreamingResponse
from litestar.types import Receive, Send

from bpa.control.changes import Change, Changes, Topic
from bpa.control.rest.event_schemas import REFETCH, Event
from bpa.control.rest.services import Services

_HEARTBEAT_S = 15.0
_SEND_S = 30.0
"""A client that takes nothing for so long has left, or should come back."""
_RETRY_MS = 2_000
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_ALL = frozenset(Topic)

_MEDIA_TYPE = "text/event-stream"
_DESCRIBED = {
    200: ResponseSpec(
        Event,
        media_type=_MEDIA_TYPE,
        generate_examples=False,
        description="Events without end, each with `event`, `id` and one line of `data` in JSON.",
        examples=[
            Example(
                summary="What comes first, a run that has started, and a node that has changed",
                value=(
                    "retry: 2000\n\nevent: refetch\nid: 3f2a-41\ndata: {}\n\n"
                    'event: run\nid: 3f2a-42\ndata: {"runs":[{"runId":"019aa3f2-1c00-8a1b-9c2d-'
                    '3e4f5a6b7c8d","status":"running","deploymentId":"invoice-classifier-dev"}],'
                    '"more":false}\n\nevent: node\nid: 3f2a-42\ndata: {"ids":["node-1"]}\n\n'
                ),
            )
        ],
    )
}

LastEventId = Annotated[
    str | None,
    HeaderParameter(
        name="Last-Event-ID",
        max_length=255,
        description="As browsers send it by themselves: a stream that has missed nothing since "
        "that event does not begin with `refetch`.",
    ),
]


@get("/v1/events", tags=["events"], media_type=_MEDIA_TYPE, responses=_DESCRIBED)
async def stream_events(
    services: NamedDependency[Services],
    topic: FromQuery[list[Topic] | None] = None,
    last_event_id: LastEventId = None,
) -> Stream:
    """Stream what changes, at most an event a second for each topic, of all topics or those named.

    `event: run` has `data: {"runs": [{"runId", "status", "deploymentId"}], "more": false}` (true:
    more have changed than are named), the other topics have `data: {"ids": []}`. `event: refetch`
    comes first, and whenever something may have been missed: ask for everything that is shown. A
    comment comes every 15 s. A stream holds back little: who reads slowly hears `refetch`.
    """
    services.changes.check_room()
    topics = frozenset(topic) if topic else _ALL
    return _Events(_told(services.changes, topics, last_event_id or ""), headers=_HEADERS)


async def _told(
    changes: Changes, topics: frozenset[Topic], last_event_id: str
) -> AsyncIterator[bytes]:
    yield f"retry: {_RETRY_MS}\n\n".encode()
    with changes.listening(topics) as listener:
        number = await changes.looking()
        if last_event_id != changes.id_of(number):
            yield _refetch(changes, number)
        while True:
            try:
                async with asyncio.timeout(_HEARTBEAT_S):
                    change = await listener.next()
            except TimeoutError:
                yield b":\n\n"
                continue
            if change.number <= number and change.is_gap:
                continue  # told already
            yield _written(changes, change, topics)


def _written(changes: Changes, change: Change, topics: frozenset[Topic]) -> bytes:
    written = change.written.get(topics)
    if written is None:
        written = change.written[topics] = _write(changes, change, topics)
    return written


def _write(changes: Changes, change: Change, topics: frozenset[Topic]) -> bytes:
    if change.is_gap:
        return _refetch(changes, change.number)
    events: list[tuple[Topic, Any]] = []
    if change.runs and Topic.RUN in topics:
        runs = [
            {"runId": run.run_id, "status": run.status, "deploymentId": run.dep_id}
            for run in change.runs
        ]
        events.append((Topic.RUN, {"runs": runs, "more": change.more_runs}))
    events += [
        (topic, {"ids": ids}) for topic, ids in sorted(change.others.items()) if topic in topics
    ]
    number = changes.id_of(change.number)
    return b"".join(_event(topic, data, number) for topic, data in events)


def _refetch(changes: Changes, number: int) -> bytes:
    return _event(REFETCH, {}, changes.id_of(number))


def _event(name: str, data: Any, number: str) -> bytes:
    body = msgspec.json.encode(data).decode()
    return f"event: {name}\nid: {number}\ndata: {body}\n\n".encode()


class _Events(Stream):
    """A stream that ends in good order when its client has left or the server closes."""

    def __init__(self, events: AsyncIterator[bytes], headers: dict[str, str]) -> None:
        super().__init__(events, headers=headers, media_type=_MEDIA_TYPE)
        self._events = events

    def to_asgi_response(
        self, app: Any, request: Request[Any, Any, Any], **options: Any
    ) -> ASGIResponse:
        """Return what sends it."""
        given: dict[str, Any] = {
            name: options.get(name) for name in ("background", "encoded_headers", "status_code")
        }
        return _Sending(
            **given,
            iterator=self._events,
            headers={**(options.get("headers") or {}), **self.headers},
            cookies=itertools.chain(self.cookies, options.get("cookies") or ()),
            media_type=_MEDIA_TYPE,
            is_head_response=options.get("is_head_response", False),
        )


class _Sending(ASGIStreamingResponse):
    __slots__ = ()

    async def send_body(self, send: Send, receive: Receive) -> None:
        """Send events until the client is heard to leave, which a server that closes says too."""

        async def send_in_time(message: Any) -> None:
            async with asyncio.timeout(_SEND_S):
                await send(message)

        sending = asyncio.ensure_future(self._stream(send_in_time))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending.cancel()
            leaving.cancel()
            results = await asyncio.gather(sending, leaving, return_exceptions=True)
        if isinstance(results[0], Exception) and not isinstance(results[0], TimeoutError):
            raise results[0]
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


HANDLERS = [stream_events]
