"""Agents and their versions."""

from __future__ import annotations

from urllib.parse import quote

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from bpa.control.rest.agent_schemas import AgentVersion
from bpa.control.rest.headers import IdempotencyKey
from bpa.control.rest.services import Services
from bpa.domain.specs import AgentSpec
from bpa.errors import InvalidRequest, NotFound


@post("/v1/agents", tags=["agents"])
async def create_agent(
    data: JSONBody[AgentSpec],
    services: NamedDependency[Services],
    idempotency_key: IdempotencyKey = None,
) -> Response[AgentVersion]:
    """Create an agent with its first version; the same request again is answered alike."""
    row = await services.agents.create(data)
    location = f"/v1/agents/{quote(data.agent_id, safe='')}"
    return _created(row["created_at"], data, location)


@post("/v1/agents/{agent_id:str}/:version", tags=["agents"])
async def add_agent_version(
    agent_id: FromPath[str],
    data: JSONBody[AgentSpec],
    services: NamedDependency[Services],
    idempotency_key: IdempotencyKey = None,
) -> Response[AgentVersion]:
    """Add a version to an agent; the same request again is answered alike."""
    if data.agent_id != agent_id:
        raise InvalidRequest(
            f"the path names agent {agent_id!r}, the body {data.agent_id!r}; make them agree"
        )
    row = await services.agents.add_version(data)
    location = f"/v1/agents/{quote(agent_id, safe='')}/versions/{quote(data.version, safe='')}"
    return _created(row["created_at"], data, location)


@get("/v1/agents", tags=["agents"])
async def list_agents(services: NamedDependency[Services]) -> list[AgentVersion]:
    """List the versions of all agents."""
    return [AgentVersion.of(row) for row in await services.agents.versions()]


@get("/v1/agents/{agent_id:str}", tags=["agents"])
async def list_agent_versions(
    agent_id: FromPath[str], services: NamedDependency[Services]
) -> list[AgentVersion]:
    """List the versions of one agent, oldest first."""
    return [AgentVersion.of(row) for row in await services.agents.versions(agent_id)]


@get("/v1/agents/{agent_id:str}/versions/{version:str}", tags=["agents"])
async def get_agent_version(
    agent_id: FromPath[str], version: FromPath[str], services: NamedDependency[Services]
) -> AgentVersion:
    """Return one version of an agent."""
    for row in await services.agents.versions(agent_id):
        if row["version"] == version:
            return AgentVersion.of(row)
    raise NotFound(f"there is no version {version!r} of agent {agent_id!r}")


def _created(created_at: object, spec: AgentSpec, location: str) -> Response[AgentVersion]:
    made = AgentVersion.of(
        {
            "agent_id": spec.agent_id,
            "version": spec.version,
            "created_at": created_at,
            "spec": msgspec.to_builtins(spec),
        }
    )
    return Response(made, headers={"Location": location})


HANDLERS = [create_agent, add_agent_version, list_agents, list_agent_versions, get_agent_version]
