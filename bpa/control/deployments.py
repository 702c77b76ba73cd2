"""Deployments: which agent version feeds from which queue, and how much it may take."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import psycopg.errors

from bpa.connectors.breaker import host_of
from bpa.control.names import check_names
from bpa.documents.schema_checks import SchemaCheck
from bpa.domain.quantities import cpu_millis, memory_bytes
from bpa.domain.runs import DeploymentId
from bpa.domain.specs import EFFECTS_MAX, DeploymentSpec
from bpa.errors import Changed, Conflict, InvalidRequest, NotFound
from bpa.postgres import Pool, fetch_all, fetch_one, load_queries

_QUERIES = load_queries(__file__)
_INT32_MAX = 2**31 - 1
_RUNS_MAX = 1_000_000
_DURATION_MAX_S = 7 * 86_400
_TIMEOUT_MAX_S = 600
_QUEUE_CHARACTERS_MAX = 260


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


def _check(spec: DeploymentSpec) -> None:
    check_names(agentId=spec.agent_id, version=spec.version, environment=spec.environment)
    problems = [*_unreadable(spec), *_out_of_range(spec), *_unaddressable(spec.http_out.base_url)]
    if not spec.routes:
        problems.append("routes: at least one is needed, the agent has to choose one")
    if not 1 <= len(spec.queue) <= _QUEUE_CHARACTERS_MAX:
        problems.append(f"queue: a name has 1 to {_QUEUE_CHARACTERS_MAX} characters")
    if problems:
        raise InvalidRequest("the deployment is not valid: " + "; ".join(problems), problems)


def _unreadable(spec: DeploymentSpec) -> Iterator[str]:
    for name, read, most in (
        ("target.resources.cpu", lambda: cpu_millis(spec.target.resources.cpu), _INT32_MAX),
        ("target.resources.memory", lambda: memory_bytes(spec.target.resources.memory), 2**63 - 1),
        ("budgets.maxDuration", lambda: spec.budgets.max_duration_s, _DURATION_MAX_S),
        ("inputSchema", lambda: spec.input_schema and bool(SchemaCheck(spec.input_schema)), 1),
    ):
        try:
            if (read() or 0) > most:
                yield f"{name}: this is more than the platform can count"
        except (InvalidRequest, ValueError, OverflowError, RecursionError) as error:
            yield f"{name}: {error}"


def _unaddressable(base_url: str) -> Iterator[str]:
    """Say what is wrong with a target's address, without repeating it: it may hold a secret."""
    if not base_url:
        return
    scheme, _, rest = base_url.partition("://")
    if scheme not in ("http", "https") or not host_of(base_url):
        yield "httpOut.baseUrl: write the full address, as https://host/path"
    elif "@" in re.split(r"[/?#]", rest, maxsplit=1)[0]:
        yield (
            "httpOut.baseUrl: an address that names a user or password is not stored; leave that "
            "part out"
        )


def _out_of_range(spec: DeploymentSpec) -> Iterator[str]:
    for name, number, least, most in (
        ("target.slotBudget", spec.target.slot_budget, 1, _RUNS_MAX),
        ("target.replicas", spec.target.replicas, 1, _RUNS_MAX),
        ("target.slotBudget x target.replicas", spec.run_limit, 1, _RUNS_MAX),
        ("budgets.maxTokens", spec.budgets.max_tokens, 1, _INT32_MAX),
        ("budgets.maxCalls", spec.budgets.max_calls, 1, _INT32_MAX),
        ("budgets.maxUsd", spec.budgets.max_usd or 0, 0, _INT32_MAX),
        ("maxEffects", spec.max_effects, 1, EFFECTS_MAX),
        ("httpOut.timeoutS", spec.http_out.timeout_s, 0.001, _TIMEOUT_MAX_S),
    ):
        if not least <= number <= most:
            yield f"{name}: {number} is not within {least} and {most}"
