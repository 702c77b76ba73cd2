"""Request bodies: JSON that no later part of the platform can stumble over.

msgspec raises UnicodeDecodeError and RecursionError beside its own errors, and accepts what
Postgres does not: NUL in strings, integers beyond 64 bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from litestar import Request
from litestar.exceptions import HTTPException
from litestar.status_codes import HTTP_415_UNSUPPORTED_MEDIA_TYPE

from bpa.errors import InvalidRequest

DEPTH_MAX = 64
"""Levels of a body at most; a JSON Schema nested deeper than that would exhaust the stack."""
_INT64 = range(-(2**63), 2**63)


class JsonRequest(Request[Any, Any, Any]):
    """A request whose body, if there is one, is JSON."""

    async def json(self) -> Any:
        """Return the body.

        Raises:
            HTTPException: It says that it is something else (415).
            InvalidRequest: It is no JSON, or holds what cannot be stored.
        """
        kind, _ = self.content_type
        if kind and kind != "application/json" and not kind.endswith("+json"):
            raise HTTPException(
                status_code=HTTP_415_UNSUPPORTED_MEDIA_TYPE,
                detail=f"a body is application/json here, not {kind}",
            )
        return read_json(await self.body())


def read_json(raw: bytes) -> Any:
    """Return a JSON document as plain values.

    Raises:
        InvalidRequest: It is no JSON in UTF-8, nested too deep, holds a NUL character or an
            integer beyond 64 bits.
    """
    try:
        tree = msgspec.json.decode(raw)
    except UnicodeDecodeError as error:
        raise InvalidRequest("the body is not UTF-8") from error
    except RecursionError as error:
        raise InvalidRequest("the body is nested too deep") from error
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error
    _check(tree)
    return tree


def _check(tree: Any) -> None:
    level, depth = [tree], 0
    while level:
        depth += 1
        if depth > DEPTH_MAX:
            raise InvalidRequest(f"the body is nested too deep: over {DEPTH_MAX} levels")
        level = [inner for value in level for inner in _inside(value)]


def _inside(value: Any) -> Iterable[Any]:
    """Return what a value holds, after a look at the value itself."""
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, list):
        return value
    if isinstance(value, str) and "\0" in value:
        raise InvalidRequest("the body holds a NUL character, which cannot be stored")
    if isinstance(value, int) and value not in _INT64:
        raise InvalidRequest("the body holds an integer beyond 64 bits")
    return ()
