"""The headers that handlers take."""

from typing import Annotated

from litestar.params import HeaderParameter

IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        max_length=255,
        description="Accepted and not needed: what is created is named in the body, and the same "
        "request again is answered alike; another body under the same name is a conflict (409).",
    ),
]
