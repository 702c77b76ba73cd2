"""What REST says in its stream of changes."""

from __future__ import annotations

from typing import Annotated

import msgspec

from bpa.control.changes import Topic
from bpa.control.rest.schemas import Document

REFETCH = "refetch"
_NAMES = msgspec.Meta(extra_json_schema={"enum": [*Topic, REFETCH]})
_JSON = msgspec.Meta(extra_json_schema={"contentMediaType": "application/json"})


class Event(Document, frozen=True):
    """One event of the stream: each field is a line of it."""

    event: Annotated[str, _NAMES]
    """What has changed; ``refetch`` asks for everything that is shown."""
    id: str
    """For ``Last-Event-ID``."""
    data: Annotated[str, _JSON]
    """``{"runs": [{"runId", "status", "deploymentId"}], "more": false}`` of runs,
    ``{"ids": []}`` of everything else, ``{}`` with ``refetch``."""
