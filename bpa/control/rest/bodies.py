"""Request bodies: JSON that no later part of the platform can stumble over.

msgspec raises UnicodeDecodeError and RecursionError beside its own errors, and accepts what
Postgres does not: NUL in strings, integers beyond 64 bits. Of a name that comes twice it keeps the
last, where another reader on the way may have kept the first. Litestar, for its part, takes "5" for
5 and 0 for false in bodies too: here a body is read as strictly as the OpenAPI document says.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import Any

import msgspec
from litestar import Request
from litestar.exceptions import HTTPException
from litestar.status_codes import HTTP_415_UNSUPPORTED_MEDIA_TYPE

from bpa.errors import InvalidRequest

DEPTH_MAX = 64
"""Levels of a body at most; a JSON Schema nested deeper than that would exhaust the stack."""
_INT64 = range(-(2**63), 2**63)
_ALONE_BYTES = 64 * 1024
"""Reading a larger body takes long enough to keep others waiting: a thread does it."""
_EXACT_MAX = 2**53
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_PLACE = re.compile(r"(.*) - at `(.*)\$(.*)`", re.DOTALL)


class JsonRequest(Request[Any, Any, Any]):
    """A request whose body, if there is one, is JSON."""

    async def json(self) -> Any:
        """Return the body as what the handler takes.

        Raises:
            HTTPException: It says that it is something else (415).
            InvalidRequest: It is no JSON, holds what cannot be stored, or is not what the handler
                takes.
        """
        kind, _ = self.content_type
        if kind and kind != "application/json" and not kind.endswith("+json"):
            raise HTTPException(
                status_code=HTTP_415_UNSUPPORTED_MEDIA_TYPE,
                detail=f"a body is application/json here, not {kind}",
            )
        if self.headers.get("content-encoding", "identity") != "identity":
            raise HTTPException(
                status_code=HTTP_415_UNSUPPORTED_MEDIA_TYPE,
                detail="a body comes as it is: without Content-Encoding",
                headers={"Accept-Encoding": "identity"},
            )
        field = self.scope["route_handler"].parsed_data_field
        wanted = field.annotation if field else Any
        raw = await self.body()
        if len(raw) > _ALONE_BYTES:
            return await asyncio.to_thread(read_as, wanted, raw)
        return read_as(wanted, raw)


def read_as(wanted: Any, raw: bytes) -> Any:
    """Return a JSON document as a value of the type ``wanted``.

    Raises:
        InvalidRequest: It is no JSON that can be kept, or another document.
    """
    tree = read_json(raw)
    if tree is None:  # where a body may be left out, null is not another word for that
        raise InvalidRequest("the request is not valid; body: Expected `object`, got `null`")
    with contextlib.suppress(msgspec.ValidationError):
        return msgspec.convert(tree, wanted)
    try:
        return msgspec.convert(_whole(tree), wanted)
    except msgspec.ValidationError as error:
        place = _PLACE.fullmatch(str(error))
        line = f"body{place[3]}: {place[2]}{place[1]}" if place else f"body: {error}"
        raise InvalidRequest(f"the request is not valid; {line}", [line]) from error


def read_json(raw: bytes) -> Any:
    """Return a JSON document as plain values.

    Raises:
        InvalidRequest: It is no JSON in UTF-8, nested too deep, holds a NUL character, an integer
            beyond 64 bits or an object with a name twice.
    """
    try:
        tree = msgspec.json.decode(raw)
    except UnicodeDecodeError as error:
        raise InvalidRequest("the body is not UTF-8") from error
    except RecursionError as error:
        raise InvalidRequest("the body is nested too deep") from error
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error
    if _members(tree) != _STRING.sub(b"", raw).count(b":"):
        raise InvalidRequest("the body names a member twice in one object; once is enough")
    return tree


def _members(tree: Any) -> int:
    """Return how many members all objects of a document have, after a look at each value."""
    level, depth, members = [tree], 0, 0
    while level:
        depth += 1
        if depth > DEPTH_MAX:
            raise InvalidRequest(f"the body is nested too deep: over {DEPTH_MAX} levels")
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                members += len(value)
                inner += value.keys()
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str):
                if "\0" in value:
                    raise InvalidRequest("the body holds a NUL character, which cannot be stored")
            elif isinstance(value, int) and value not in _INT64:
                raise InvalidRequest("the body holds an integer beyond 64 bits")
        level = inner
    return members


def _whole(value: Any) -> Any:
    """Return a document with 1 for 1.0: both are integers to JSON Schema, and to JavaScript."""
    if isinstance(value, dict):
        return {name: _whole(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_whole(inner) for inner in value]
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_MAX
    return int(value) if is_whole else value
