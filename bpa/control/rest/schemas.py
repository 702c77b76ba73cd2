"""What REST says and takes, beside the specs of ``domain``: one struct a document, camelCase.

What a resource has of its own is in ``<resource>_schemas``; here is what all of them share.

The command line reads them too: nothing here imports the web framework, which takes it 0.1 s.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Self

import msgspec

from bpa.control.actors import ACTOR_CHARS_MAX, told


def as_posted(spec: type[msgspec.Struct]) -> msgspec.Meta:
    """Describe a plain document as what it was posted as."""
    return msgspec.Meta(extra_json_schema={"$ref": f"#/components/schemas/{spec.__name__}"})


Text = Annotated[str, msgspec.Meta(max_length=4096)]
Time = Annotated[datetime, msgspec.Meta(tz=True)]
"""With its offset: only so msgspec documents it as `date-time`."""


class Document(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A document of the API."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Build it from a row that has its fields, and perhaps more."""
        return cls(**{name: row[name] for name in cls.__struct_fields__ if name in row})


Caller = Annotated[str, msgspec.Meta(min_length=1, max_length=ACTOR_CHARS_MAX)]


class Asked(Document, frozen=True, forbid_unknown_fields=True):
    """Who asks for a change."""

    requested_by: Caller = "api"
    """For audits and histories, which name the caller as ``api:`` and this, the command line as
    ``cli:user@host``; as told, until the API authenticates its callers."""

    @property
    def actor(self) -> str:
        """How audits name them."""
        return told(self.requested_by)


class Health(Document, frozen=True):
    """How the process is."""

    status: str
    reasons: list[str] = []
    """Why it is not ready, a line for each store that is away."""
    degraded: list[str] = []
    """What is away though the process is ready: a line for each queue."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error as RFC 9457 has it, with our code."""

    title: str
    status: int
    detail: str
    code: str
    instance: str
    type: str = "about:blank"
    trace_id: str | None = None
    errors: list[str] = []
