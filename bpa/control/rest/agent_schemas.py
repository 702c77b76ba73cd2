"""What REST says of agents."""

from __future__ import annotations

from typing import Annotated, Any

from bpa.control.rest.schemas import Document, Time, as_posted
from bpa.domain.specs import AgentSpec


class AgentVersion(Document, frozen=True):
    """One version of an agent."""

    agent_id: str
    version: str
    created_at: Time
    spec: Annotated[dict[str, Any], as_posted(AgentSpec)]
    """The ``AgentSpec`` as it was posted."""
