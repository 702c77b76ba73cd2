"""See the fleet and its work as Postgres has them: one statement, one moment."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from bpa.domain.runs import DeploymentId
from bpa.domain.specs import DeploymentSpec
from bpa.errors import Unavailable
from bpa.postgres import Pool, load_queries, translated
from bpa.scheduler.breakers import Gate
from bpa.scheduler.fleet import ALONE_FROM, Deployment, Needs, Node, Snapshot, WaitingRun, needs_of

QUERIES = load_queries(__file__)

_WAITING_COUNTED = 1000  # of each deployment; more than this is more than any room


@dataclass(frozen=True, slots=True)
class _Served:
    """A deployment without its spec, which seldom changes."""

    dep_id: DeploymentId
    revision: int
    active: bool
    leased: int
    waiting: int
    gate: Gate | None = None


@dataclass(frozen=True, slots=True)
class _Terms:
    """What of a deployment's spec concerns the planner."""

    revision: int
    slot_budget: int
    replicas: int
    needs: Needs


_NODES = msgspec.json.Decoder(tuple[Node, ...])
_SERVED = msgspec.json.Decoder(tuple[_Served, ...])
_WAITING = msgspec.json.Decoder(tuple[WaitingRun, ...])
_SPEC = msgspec.json.Decoder(DeploymentSpec)


class SnapshotReader:
    """Reads snapshots of one environment; specs of deployments are kept by their revision.

    Args:
        pool: Connections to Postgres.
        environment: Deployments of this environment alone are served.
        silent_after_s: A node without a heartbeat for longer gets nothing.
        forgotten_after_s: A node without a heartbeat for longer is not even named in reasons.
        most_waiting: Waiting runs in one snapshot, fairly cut between deployments.
    """

    def __init__(
        self,
        pool: Pool,
        environment: str,
        *,
        silent_after_s: float,
        forgotten_after_s: float = 3600.0,
        most_waiting: int = 256,
    ) -> None:
        self._pool = pool
        self._silent_after_s = silent_after_s
        self._parameters = {
            "env": environment,
            "most": most_waiting,
            "alone_from": ALONE_FROM,
            "counted": _WAITING_COUNTED,
            "forgotten_after_s": forgotten_after_s,
        }
        self._terms: dict[DeploymentId, _Terms] = {}

    async def read(self) -> Snapshot:
        """Return what is so now; a round trip, and a second one after a deployment has changed.

        Raises:
            Unavailable: Postgres is away.
        """
        with translated():
            async with self._pool.connection() as connection:
                cursor = await connection.execute(QUERIES.look, self._parameters)
                row = await cursor.fetchone()
                assert row is not None, "a statement without FROM returns one row"
                served = _SERVED.decode(row["deployments"])
                stale = [d.dep_id for d in served if not self._knows(d)]
                if stale:
                    cursor = await connection.execute(QUERIES.specs, {"dep_ids": stale})
                    self._learn(await cursor.fetchall())
        if row["hold_generation"] is None:
            raise Unavailable("the setting hold_generation is missing: apply the migrations")
        now: datetime = row["now"]
        deployments = {d.dep_id: self._deployment(d) for d in served}
        waiting = _WAITING.decode(row["waiting"])
        return Snapshot(
            now=now,
            hold_generation=row["hold_generation"],
            nodes=_NODES.decode(row["nodes"]),
            deployments=deployments,
            waiting=waiting,
            silent_after_s=self._silent_after_s,
            seed=now.microsecond,
        )

    def _knows(self, served: _Served) -> bool:
        terms = self._terms.get(served.dep_id)
        return terms is not None and terms.revision >= served.revision

    def _learn(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            spec = _SPEC.decode(row["spec"])
            self._terms[DeploymentId(row["dep_id"])] = _Terms(
                row["revision"], spec.target.slot_budget, spec.target.replicas, needs_of(spec)
            )

    def _deployment(self, served: _Served) -> Deployment:
        terms = self._terms[served.dep_id]
        return Deployment(
            served.dep_id,
            terms.revision,
            served.active,
            terms.slot_budget,
            terms.replicas,
            terms.needs,
            served.leased,
            served.waiting,
            served.gate,
        )
