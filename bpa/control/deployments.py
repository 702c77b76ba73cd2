"""Deployments: which agent version feeds from which queue, and how much it may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import psycopg.errors

from bpa.documents.schema_checks import SchemaCheck
from bpa.domain import DeploymentId, DeploymentSpec, cpu_millis, memory_bytes
from bpa.errors import Conflict, InvalidRequest, NotFound
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


class Deployments:
    """What is deployed."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(self, spec: DeploymentSpec) -> dict[str, Any]:
        """Deploy an agent version on a queue; the same request again is answered alike.

        The deployment's id is ``<agent>-<environment>``.

        Raises:
            InvalidRequest: A quantity, a budget, the routes or the schema make no sense.
            NotFound: There is no such agent version.
            Conflict: Another active deployment feeds from that queue, or this id says otherwise.
        """
        _check(spec)
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
            raise Conflict(f"deployment {dep_id!r} exists and differs")
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
            )
            for row in rows
        }


def _check(spec: DeploymentSpec) -> None:
    problems = []
    for name, read in (
        ("target.resources.cpu", lambda: cpu_millis(spec.target.resources.cpu)),
        ("target.resources.memory", lambda: memory_bytes(spec.target.resources.memory)),
        ("budgets.maxDuration", lambda: spec.budgets.max_duration_s),
        ("inputSchema", lambda: spec.input_schema and SchemaCheck(spec.input_schema)),
    ):
        try:
            read()
        except (InvalidRequest, ValueError) as error:
            problems.append(f"{name}: {error}")
    for name, number in (
        ("target.slotBudget", spec.target.slot_budget),
        ("target.replicas", spec.target.replicas),
        ("budgets.maxTokens", spec.budgets.max_tokens),
        ("budgets.maxCalls", spec.budgets.max_calls),
    ):
        if number < 1:
            problems.append(f"{name}: {number} is less than 1")
    if not spec.routes:
        problems.append("routes: at least one is needed, the agent has to choose one")
    if problems:
        raise InvalidRequest("the deployment is not valid: " + "; ".join(problems), problems)
