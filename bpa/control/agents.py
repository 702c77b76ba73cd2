"""Agents and their versions; a version never changes once it is there."""

from __future__ import annotations

from typing import Any

import msgspec

from bpa.control.names import check_names
from bpa.domain.specs import AgentSpec
from bpa.errors import Conflict, NotFound
from bpa.postgres import Pool, fetch_all, fetch_one, load_queries

_QUERIES = load_queries(__file__)


class Agents:
    """What agents exist."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(self, spec: AgentSpec) -> dict[str, Any]:
        """Create an agent with its first version; the same request again is answered alike.

        Raises:
            InvalidRequest: Its id or version is no name.
            Conflict: There is another agent of that id.
        """
        check_names(agentId=spec.agent_id, version=spec.version)
        row = await fetch_one(
            self._pool,
            _QUERIES.create_agent,
            agent_id=spec.agent_id,
            name=spec.name,
            instructions=spec.instructions,
            model_profile=_json(spec.model_profile),
            version=spec.version,
            spec=_json(spec),
        )
        return row or await self._same(
            spec, f"agent {spec.agent_id!r} exists; post to /v1/agents/{spec.agent_id}:version"
        )

    async def add_version(self, spec: AgentSpec) -> dict[str, Any]:
        """Add a version to an agent; the same request again is answered alike.

        Raises:
            InvalidRequest: The version is no name.
            NotFound: There is no such agent.
            Conflict: The version exists and says something else.
        """
        check_names(agentId=spec.agent_id, version=spec.version)
        row = await fetch_one(
            self._pool,
            _QUERIES.create_version,
            agent_id=spec.agent_id,
            version=spec.version,
            spec=_json(spec),
        )
        if row is None:
            await self.versions(spec.agent_id)
        return row or await self._same(
            spec, f"version {spec.version} of {spec.agent_id!r} exists and differs; choose another"
        )

    async def versions(self, agent_id: str | None = None) -> list[dict[str, Any]]:
        """List versions, of one agent or of all.

        Raises:
            NotFound: There is no such agent.
        """
        rows = await fetch_all(self._pool, _QUERIES.versions, agent_id=agent_id, version=None)
        if agent_id and not rows:
            raise NotFound(f"there is no agent {agent_id!r}")
        return rows

    async def _same(self, spec: AgentSpec, otherwise: str) -> dict[str, Any]:
        row = await fetch_one(
            self._pool, _QUERIES.versions, agent_id=spec.agent_id, version=spec.version
        )
        if row is None or msgspec.convert(row["spec"], AgentSpec) != spec:
            raise Conflict(otherwise)
        return row


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
