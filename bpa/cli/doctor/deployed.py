"""What is deployed, as far as it can be known: the server says, or else the shipped files."""

from __future__ import annotations

import asyncio

from bpa.cli.api import open_api_at
from bpa.cli.doctor.findings import Subject
from bpa.control.rest.agent_schemas import AgentVersion
from bpa.control.rest.deployment_schemas import Deployment
from bpa.errors import BpaError
from bpa.manifests import read_all, shipped_config


async def queues(subject: Subject) -> list[str]:
    """Return the queues that this environment's deployments feed from."""
    url = url_of(subject)
    if url:
        try:
            async with open_api_at(url) as api:
                found = await api.get(
                    "/v1/deployments",
                    list[Deployment],
                    environment=subject.settings.environment,
                )
            if found:
                return sorted({one.queue for one in found})
        except BpaError:
            pass  # a check of its own says that it does not answer
    config = shipped_config(subject.settings.config_dir)
    try:
        _, deployments = await asyncio.to_thread(read_all, [config / "deployments"])
    except BpaError:
        return ["invoices"]
    return sorted({one.queue for one in deployments}) or ["invoices"]


async def models(subject: Subject) -> list[str]:
    """Return the models that agents are to work with."""
    url = url_of(subject)
    if url:
        try:
            async with open_api_at(url) as api:
                agents = await api.get("/v1/agents", list[AgentVersion])
            named = {(one.spec.get("modelProfile") or {}).get("model") for one in agents}
            if named - {None}:
                return sorted(str(name) for name in named if name)
        except BpaError:
            pass  # as above
    config = shipped_config(subject.settings.config_dir)
    try:
        agents_of, _ = await asyncio.to_thread(read_all, [config / "agents"])
    except BpaError:
        return []
    return sorted({one.model_profile.model for one in agents_of})


def url_of(subject: Subject) -> str:
    """Return where REST is to be found; empty where nobody says."""
    return subject.settings.control.url or (subject.running.http if subject.running else "")
