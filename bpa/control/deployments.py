"""Deployments: which agent version feeds from which queue, and how much it may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import psycopg.errors

from bpa.control.actors import Door
from bpa.control.spec_checks import check
from bpa.domain.runs import DeploymentId
from bpa.domain.specs import DeploymentSpec
from bpa.errors import Changed, Conflict, NotFound
from bpa.postgres import Pool, fetch_all, fetch_one, load_queries

_QUERIES = load_queries(__file__)


@dataclass(frozen=True, slots=True)
class Feeding:
    """An active deployment, as ingest needs it."""

    dep_id: DeploymentId
    agent_id: str
    version: str
    queue: str
    spec: DeploymentSpec
    revision: int
    paused: bool = False
    """Nothing is received for it and none of its runs starts; its queue stays its own."""


class Deployments:
    """What is deployed."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(self, spec: DeploymentSpec, actor: str = Door.API) -> dict[str, Any]:
        """Deploy an agent version on a queue; the same request again is answered alike.

        The deployment's id is ``<agent>-<environment>``; ``actor`` is who its history begins with.

        Raises:
            InvalidRequest: A quantity, a budget, the routes or the schema make no sense.
            NotFound: There is no such agent version.
            Conflict: Another active deployment feeds from that queue, or this id says otherwise.
        """
        check(spec)
        dep_id = DeploymentId(f"{spec.agent_id}-{spec.environment}")
        try:
            row = await fetch_one(
                self._pool,
                _QUERIES.create,
                dep_id=dep_id,
                agent_id=spec.agent_id,
                version=spec.version,
                env=spec.environment,
                queue=spec.queue,
                target=msgspec.json.encode(spec).decode(),
                actor=str(actor),
            )
        except psycopg.errors.ForeignKeyViolation as error:
            raise NotFound(
                f"there is no version {spec.version} of agent {spec.agent_id!r}; create it first"
            ) from error
        except psycopg.errors.UniqueViolation as error:
            raise Conflict(
                f"another active deployment feeds from queue {spec.queue!r} in "
                f"{spec.environment!r}; a queue has one"
            ) from error
        present = await self.get(dep_id)
        if row is None and msgspec.convert(present["target"], DeploymentSpec) != spec:
            raise Conflict(
                f"deployment {dep_id!r} exists and differs; edit it (`bpa apply --update`, or PUT)"
            )
        return present

    async def get(self, dep_id: str) -> dict[str, Any]:
        """Return one deployment.

        Raises:
            NotFound: There is no such deployment.
        """
        row = await fetch_one(self._pool, _QUERIES.page, dep_id=dep_id, env=None)
        if row is None:
            raise NotFound(f"there is no deployment {dep_id!r}")
        return row

    async def page(self, env: str | None = None) -> list[dict[str, Any]]:
        """List deployments."""
        return await fetch_all(self._pool, _QUERIES.page, dep_id=None, env=env)

    async def pause(
        self, dep_id: str, *, paused: bool, actor: str, tag: str | None = None
    ) -> dict[str, Any]:
        """Have a deployment receive and start nothing, or go on with that; return it.

        What runs goes on. Asking for what is so already changes nothing.

        Args:
            dep_id: The deployment.
            paused: False to go on.
            actor: Who wants it, for the audit.
            tag: As :func:`tag_of` gave it for what the decision was made by; None asks for nothing.

        Raises:
            NotFound: There is no such deployment.
            Changed: It has changed since it had that tag.
        """
        values = {"dep_id": dep_id, "paused": paused, "actor": actor, "tag": tag}
        row = await fetch_one(self._pool, _QUERIES.pause, **values)
        if row is not None and tag not in (None, row["tag"]):
            raise Changed(
                f"deployment {dep_id!r} has changed since you looked: it has the ETag "
                f'"{row["tag"]}" now; look at it again'
            )
        return await self.get(dep_id)

    async def feeding(self, env: str) -> Mapping[DeploymentId, Feeding]:
        """Return the active deployments of an environment."""
        rows = await fetch_all(self._pool, _QUERIES.feeding, env=env)
        return {
            row["dep_id"]: Feeding(
                dep_id=row["dep_id"],
                agent_id=row["agent_id"],
                version=row["version"],
                queue=row["queue"],
                spec=msgspec.convert(row["target"], DeploymentSpec),
                revision=row["revision"],
                paused=row["paused"],
            )
            for row in rows
        }


def tag_of(row: Mapping[str, Any]) -> str:
    """Return what names a deployment's present state: its ETag, without quotes."""
    return f"{row['revision']}{'-paused' if 'paused' in row['status'] else ''}"
