"""Edits of deployments: each is another revision, kept with who wanted it, when and why.

An edit names the state that it was decided by (its ETag), and changes nothing where that has moved
on. What it means for runs that are alive: docs/decisions/0020-edits-of-deployments.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import psycopg.errors

from bpa.control.deployments import tag_of
from bpa.control.spec_changes import Problem
from bpa.control.spec_checks import problems_of, refuse
from bpa.domain.runs import RunStatus
from bpa.domain.specs import DeploymentSpec
from bpa.errors import Changed, Conflict, InvalidRequest, NotFound
from bpa.postgres import Pool, fetch_all, fetch_one, load_queries, translated

_QUERIES = load_queries(__file__)
_REVISION_MAX = 2**63 - 1
ANY = "*"
"""The tag of whoever edits what is there, whatever it says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """What a deployment is to say, by whose will."""

    spec: DeploymentSpec
    actor: str
    note: str = ""
    restores: int | None = None
    """The revision whose spec it brings back."""


class Revisions:
    """What deployments said and say.

    Args:
        pool: Connections to Postgres.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def edit(self, dep_id: str, edit: Edit, tag: str) -> bool:
        """Give a deployment another spec; say whether that changed anything.

        Args:
            dep_id: The deployment.
            edit: What it is to say.
            tag: As ``tag_of`` gave it for what the decision was made by, or `ANY`.

        Raises:
            NotFound: There is no such deployment.
            Changed: It has changed since it had that tag.
            InvalidRequest: The spec makes no sense, names a version that is not there, or another
                deployment.
            Conflict: The queue is fed by another deployment, or this one still has runs of its own.
        """
        refuse([*problems_of(edit.spec)])
        with translated():
            async with self._pool.connection() as connection, connection.transaction():
                cursor = await connection.execute(_QUERIES.seize, {"dep_id": dep_id})
                present = await cursor.fetchone()
                if present is None:
                    raise NotFound(f"there is no deployment {dep_id!r}")
                _must_be(present, tag)
                refuse(renamed(present, edit.spec))
                spec = msgspec.convert(present["target"], DeploymentSpec)
                if spec == edit.spec:
                    return False
                if edit.spec.queue != present["queue"]:
                    cursor = await connection.execute(_QUERIES.alive, {"dep_id": dep_id})
                    row = await cursor.fetchone()
                    _may_leave(present, row["alive"] if row else 0)
                try:
                    await connection.execute(_QUERIES.edit, _values(dep_id, edit))
                except psycopg.errors.ForeignKeyViolation as error:
                    problem = no_version(edit.spec)
                    raise InvalidRequest(str(problem), [str(problem)]) from error
                except psycopg.errors.UniqueViolation as error:
                    raise Conflict(
                        f"another active deployment feeds from queue {edit.spec.queue!r} in "
                        f"{edit.spec.environment!r}; a queue has one"
                    ) from error
        return True

    async def roll_back(self, dep_id: str, revision: int, actor: str, note: str, tag: str) -> bool:
        """Give a deployment the spec of an earlier revision again, as a new one.

        Raises:
            NotFound: There is no such deployment or revision.
            Changed: It has changed since it had that tag.
            InvalidRequest: What was valid then is not any more.
            Conflict: As for an edit.
        """
        row = await self.get(dep_id, revision)
        spec = msgspec.convert(row["spec"], DeploymentSpec)
        return await self.edit(
            dep_id, Edit(spec=spec, actor=actor, note=note, restores=revision), tag
        )

    async def get(self, dep_id: str, revision: int) -> dict[str, Any]:
        """Return one revision, with the spec before it.

        Raises:
            NotFound: There is no such deployment or revision.
        """
        if not 0 < revision <= _REVISION_MAX:
            raise NotFound(f"deployment {dep_id!r} has no revision {revision}")
        row = await fetch_one(
            self._pool, _QUERIES.page, dep_id=dep_id, before=None, revision=revision, most=1
        )
        if row is None:
            raise NotFound(f"deployment {dep_id!r} has no revision {revision}")
        return row

    async def page(self, dep_id: str, before: int | None, most: int) -> list[dict[str, Any]]:
        """List revisions, the latest first.

        Args:
            dep_id: The deployment; one that is none has no revisions.
            before: Only those earlier than this one; None begins with the latest.
            most: So many of them.
        """
        return await fetch_all(
            self._pool, _QUERIES.page, dep_id=dep_id, before=before, revision=None, most=most
        )

    async def budgets_of(self, run: Mapping[str, Any]) -> DeploymentSpec | None:
        """Return the spec whose budgets hold for a run, or held for its last execution.

        They are those that the lease was granted under; a run that waits gets the present ones.

        Args:
            run: As `bpa.control.history` has it.
        """
        leases = [run["lease_granted_at"], *(one["granted_at"] for one in run["attempts"])]
        granted = max(filter(None, leases), default=None)
        at = None if run["status"] == RunStatus.QUEUED else granted or run["ended_at"]
        row = await fetch_one(self._pool, _QUERIES.spec_at, dep_id=run["dep_id"], at=at)
        return msgspec.convert(row["spec"], DeploymentSpec) if row else None

    async def at_work(self, dep_id: str) -> dict[str, int]:
        """Count a deployment's leases by node."""
        rows = await fetch_all(self._pool, _QUERIES.at_work, dep_id=dep_id)
        return {row["node_id"]: row["runs"] for row in rows}

    async def alive_by_version(self, dep_id: str) -> dict[str, int]:
        """Count a deployment's runs that have not ended by the agent version that they keep."""
        rows = await fetch_all(self._pool, _QUERIES.alive_by_version, dep_id=dep_id)
        return {row["version"]: row["runs"] for row in rows}

    async def left_behind(self, queue: str) -> dict[str, Any]:
        """Return what is known to lie in a queue: active messages and dead letters, or None."""
        row = await fetch_one(self._pool, _QUERIES.left_behind, queue=queue)
        return row or {"active": None, "dead_letters": None}


def renamed(present: Mapping[str, Any], spec: DeploymentSpec) -> list[Problem]:
    """Return what a spec says otherwise that makes the deployment's id."""
    fixed = (
        ("agentId", present["agent_id"], spec.agent_id),
        ("environment", present["env"], spec.environment),
    )
    return [
        Problem(
            field,
            f"this is deployment {present['dep_id']!r}, whose {field} stays {old!r}; "
            "create another deployment for another one, and pause this",
        )
        for field, old, new in fixed
        if old != new
    ]


def no_version(spec: DeploymentSpec) -> Problem:
    """Return what is wrong with a version that the agent does not have."""
    return Problem(
        "version",
        f"there is no version {spec.version!r} of agent {spec.agent_id!r}; create it first",
    )


def held_by_runs(queue: str, *, paused: bool, alive: int) -> str | None:
    """Return why a deployment may not leave its queue yet.

    Its messages are settled over a feeder of that queue, also after a replica died.
    """
    if paused and not alive:
        return None
    first = "" if paused else "pause the deployment, "
    then = f"wait until its {alive} runs have ended, " if alive else ""
    return (
        f"its queue stays {queue!r} while messages of it are at work, which nobody could settle; "
        f"{first}{then}then change it"
    )


def _must_be(present: Mapping[str, Any], tag: str) -> None:
    now = tag_of(present)
    if tag not in (ANY, now):
        raise Changed(
            f"deployment {present['dep_id']!r} has changed since you looked: it has the ETag "
            f'"{now}" now; look at it again'
        )


def _may_leave(present: Mapping[str, Any], alive: int) -> None:
    why = held_by_runs(present["queue"], paused="paused" in present["status"], alive=alive)
    if why is not None:
        raise Conflict(f"queue: {why}")


def _values(dep_id: str, edit: Edit) -> dict[str, Any]:
    return {
        "dep_id": dep_id,
        "version": edit.spec.version,
        "queue": edit.spec.queue,
        "spec": msgspec.json.encode(edit.spec).decode(),
        "actor": edit.actor,
        "note": edit.note,
        "restores": edit.restores,
    }
