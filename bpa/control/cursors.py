"""Cursors of paged lists: opaque to clients, a place in an order to us."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from bpa.errors import InvalidRequest

_NONE_OF_OURS = "this cursor is none of ours; start again without one"


def cursor_of(row: Mapping[str, Any]) -> str:
    """Return the cursor that continues after ``row``, by its ``created_at`` and ``run_id``."""
    return _written(row["created_at"].isoformat(), row["run_id"])


def read_cursor(cursor: str) -> tuple[datetime, str]:
    """Return where to continue.

    Raises:
        InvalidRequest: The cursor is none of ours.
    """
    try:
        at, run_id = _read(cursor)
        return datetime.fromisoformat(at).astimezone(UTC), str(uuid.UUID(run_id))
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(_NONE_OF_OURS) from error


def cursor_of_numbered(owner_id: str, number: int) -> str:
    """Return the cursor that continues after so many: an execution of a run, an item."""
    return _written(owner_id, str(number))


def read_numbered(cursor: str) -> tuple[str, int]:
    """Return whose, and after which number to continue.

    Raises:
        InvalidRequest: The cursor is none of ours.
    """
    try:
        owner_id, number = _read(cursor)
        if not number.isdecimal() or int(number) >= 2**63:
            raise ValueError(number)
        return str(uuid.UUID(owner_id)), int(number)
    except ValueError as error:
        raise InvalidRequest(_NONE_OF_OURS) from error


def cursor_of_revision(revision: int) -> str:
    """Return the cursor that continues after a deployment's revision."""
    return _written("revision", str(revision))


def read_revision(cursor: str) -> int:
    """Return before which revision to continue.

    Raises:
        InvalidRequest: The cursor is none of ours.
    """
    try:
        what, revision = _read(cursor)
        if what != "revision" or not revision.isdecimal() or int(revision) >= 2**63:
            raise ValueError(cursor)
        return int(revision)
    except ValueError as error:
        raise InvalidRequest(_NONE_OF_OURS) from error


def _written(*parts: str) -> str:
    return base64.urlsafe_b64encode("|".join(parts).encode()).decode()


def _read(cursor: str) -> tuple[str, str]:
    first, second = base64.urlsafe_b64decode(cursor.encode()).decode().split("|")
    return first, second
