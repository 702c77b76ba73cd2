"""Cursors of paged lists: opaque to clients, a place in an order to us."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from bpa.errors import InvalidRequest


def cursor_of(row: Mapping[str, Any]) -> str:
    """Return the cursor that continues after ``row``, by its ``created_at`` and ``run_id``."""
    text = f"{row['created_at'].isoformat()}|{row['run_id']}"
    return base64.urlsafe_b64encode(text.encode()).decode()


def read_cursor(cursor: str) -> tuple[datetime, str]:
    """Return where to continue.

    Raises:
        InvalidRequest: The cursor is none of ours.
    """
    try:
        at, run_id = base64.urlsafe_b64decode(cursor.encode()).decode().split("|")
        return datetime.fromisoformat(at).astimezone(UTC), str(uuid.UUID(run_id))
    except (ValueError, OverflowError) as error:
        raise InvalidRequest("this cursor is none of ours; start again without one") from error
