"""What REST says of deployments."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from bpa.control.rest.schemas import Document, Time, as_posted
from bpa.domain.specs import DeploymentSpec


class Deployment(Document, frozen=True):
    """A deployment and its living runs."""

    deployment_id: str
    agent_id: str
    version: str
    environment: str
    queue: str
    spec: Annotated[dict[str, Any], as_posted(DeploymentSpec)]
    status: dict[str, Any]
    revision: int
    paused_at: Time | None
    """Since when nothing is received for it and none of its runs starts; null while it works."""
    paused_by: str | None
    created_at: Time
    alive: int
    """Its runs that have not ended."""

    @property
    def etag(self) -> str:
        """What names its present state, without quotes."""
        return f"{self.revision}{'-paused' if self.paused_at else ''}"

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Deployment:
        """Build it from its row."""
        paused = row["status"].get("paused")
        names = {
            "deployment_id": row["dep_id"],
            "environment": row["env"],
            "spec": row["target"],
            "paused_at": datetime.fromisoformat(paused["at"]) if paused else None,
            "paused_by": paused["by"] if paused else None,
        }
        return super().of({**row, **names})
