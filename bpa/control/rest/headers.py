"""The headers and query parameters that handlers share."""

import re
from datetime import datetime
from typing import Annotated

from litestar.params import HeaderParameter, QueryParameter

from bpa.control.actors import ACTOR_CHARS_MAX
from bpa.control.revisions import ANY
from bpa.errors import InvalidRequest, Unguarded

_INSTANT = r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?([Zz]|[+-]\d{2}:\d{2})$"

Instant = Annotated[str | None, QueryParameter(schema_extra={"format": "date-time"})]
"""A time with its offset, as RFC 3339 has it; handlers read it with ``instant``."""

CallerInQuery = Annotated[
    str,
    QueryParameter(
        name="requestedBy",
        min_length=1,
        max_length=ACTOR_CHARS_MAX,
        description="Who asks for it, as bodies elsewhere say it.",
    ),
]

IfMatch = Annotated[
    str | None,
    HeaderParameter(
        name="If-Match",
        max_length=255,
        description="The ETag of what the decision was made by: answered 412 if it has changed "
        "since. Left out, or `*`, the present state is taken as it is.",
    ),
]

IfMatchNeeded = Annotated[
    str | None,
    HeaderParameter(
        name="If-Match",
        max_length=255,
        description="The ETag of what the edit was made from: answered 412 if it has changed "
        "since, and 428 if this is left out. `*` edits what is there, whatever it says.",
    ),
]

IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        max_length=255,
        description="Accepted and not needed: what is created is named in the body, and the same "
        "request again is answered alike; another body under the same name is a conflict (409).",
    ),
]


def instant(name: str, written: str | None) -> datetime | None:
    """Return the time that a query names; msgspec alone would take ``0.5`` for one as well.

    Raises:
        InvalidRequest: It is none, or has no offset.
    """
    if written is None:
        return None
    try:
        if re.fullmatch(_INSTANT, written):
            return datetime.fromisoformat(written.upper())
    except ValueError:
        pass
    raise InvalidRequest(f"{name}: {written[:64]!r} is no time; write 2026-01-31T00:00:00Z")


def demanded(if_match: str | None) -> str:
    """Return the tag that an edit names, without quotes; `ANY` where any will do.

    Raises:
        Unguarded: It names none.
    """
    if if_match is None:
        raise Unguarded(
            "an edit says what it was made from: send the ETag of the deployment as If-Match, or "
            "`*` to edit whatever is there"
        )
    return expected(if_match) or ANY


def expected(if_match: str | None) -> str | None:
    """Return the tag that a request names, without quotes; None where any will do."""
    return None if if_match in (None, "*") else if_match.removeprefix("W/").strip('" ')
