"""Batches that one bad report cannot spoil, and JSON that Postgres can keep."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import psycopg
import psycopg.errors

from bpa.errors import BpaError, Conflict, InvalidRequest

T = TypeVar("T")
R = TypeVar("R")

_ITS_OWN_FAULT = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.errors.ProgramLimitExceeded,  # for one, a key too long for its index
)
_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


def isolated(
    execute: Callable[[list[T]], Awaitable[list[R | Exception]]],
) -> Callable[[list[T]], Awaitable[list[R | Exception]]]:
    """Have a batch that Postgres refuses for its values executed one by one.

    A statement fails as a whole; without this the reports of a whole fleet would fail for the one
    among them that holds a number out of range. What fails alone gets an ``InvalidRequest`` or,
    where it contradicts what is there, a ``Conflict``. It costs nothing while all is well.
    """

    async def alone(items: list[T]) -> list[R | Exception]:
        try:
            return await execute(items)
        except _ITS_OWN_FAULT as error:
            if len(items) == 1:
                return [_refusal(error)]
        return [outcome for item in items for outcome in await alone([item])]

    return alone


def jsonb(value: object) -> str:
    r"""Return JSON for a ``jsonb`` parameter.

    Postgres keeps no NUL characters; they become U+FFFD, so that a report whose text quotes hostile
    input is not lost.
    """
    text = msgspec.json.encode(value).decode()
    return _NUL.sub("\\1\ufffd", text) if "\\u0000" in text else text


def _refusal(error: psycopg.Error) -> BpaError:
    said = error.diag.message_primary or str(error)
    if isinstance(error, psycopg.IntegrityError):
        return Conflict(f"this contradicts what is recorded: {said}")
    return InvalidRequest(f"this cannot be recorded: {said}")
