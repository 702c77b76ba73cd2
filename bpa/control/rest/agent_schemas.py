"""What REST says of agents."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from bpa.control.rest.schemas import Document


class AgentVersion(Document, frozen=True):
    """One version of an agent."""

    agent_id: str
    version: str
    created_at: datetime
    spec: dict[str, Any]
    """The ``AgentSpec`` as it was posted."""
