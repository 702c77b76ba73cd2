"""The headers that handlers take."""

from typing import Annotated

from litestar.params import HeaderParameter

IfMatch = Annotated[
    str | None,
    HeaderParameter(
        name="If-Match",
        max_length=255,
        description="The ETag of what the decision was made by: answered 412 if it has changed "
        "since. Left out, or `*`, the present state is taken as it is.",
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


def expected(if_match: str | None) -> str | None:
    """Return the tag that a request names, without quotes; None where any will do."""
    return None if if_match in (None, "*") else if_match.removeprefix("W/").strip('" ')
