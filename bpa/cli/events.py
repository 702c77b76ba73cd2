"""Server-sent events, as control writes them: what `GET /v1/events` streams."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass

from bpa.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Event:
    """One event."""

    name: str
    id: str
    data: str


async def read_events(lines: AsyncIterable[bytes]) -> AsyncIterator[Event]:
    """Read events from the lines of a stream, until it ends; its comments are left out.

    The rules are those of the HTML standard, "Parsing an event stream", but for line ends: control
    writes line feeds alone.

    Raises:
        Unavailable: It is no such stream.
    """
    fields: dict[str, str] = {}
    try:
        async for line in lines:
            if line in (b"\n", b"\r\n"):
                if "data" in fields:
                    name = fields.get("event", "message")
                    yield Event(name, fields.get("id", ""), fields["data"])
                fields = {}
                continue
            name, _, value = line.decode().rstrip("\r\n").partition(":")
            value = value.removeprefix(" ")
            if name == "data" and "data" in fields:
                value = f"{fields['data']}\n{value}"
            if name:
                fields[name] = value
    except ValueError as error:  # no UTF-8, or a line of 128 KiB
        raise Unavailable("what streams events is not control, or another version") from error
