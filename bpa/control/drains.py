"""Cordon and drain: a node gets no new leases, and is empty by a deadline.

What an operator decided stands in the node's row, so that it outlives the replica that was asked
and the boot that was meant. The deadline is Postgres's to judge: control tells the node of it with
each heartbeat, and the node hands back what it still holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec
import structlog

from bpa.control.leases import Leases
from bpa.domain.journal import StepKind
from bpa.domain.runs import NodeId
from bpa.domain.specs import DeploymentSpec
from bpa.errors import Conflict, NotFound
from bpa.postgres import Pool, fetch_all, fetch_one, load_queries, translated

DRAIN_DEADLINE_S = 600.0
"""How long runs may go on when nobody says so."""
_REAPED_WITHIN_S = 5.0
_QUERIES = load_queries(__file__)
_log = structlog.stdlib.get_logger(__name__)


class NodeState(StrEnum):
    """Whether a node gets leases, and if not, why."""

    READY = "ready"
    CORDONED = "cordoned"
    """An operator keeps new leases from it."""
    DRAINING = "draining"
    """An operator wants it empty, and it is not yet."""
    DRAINED = "drained"
    """It is empty, and stays so until it is uncordoned."""
    CLOSING = "closing"
    """It leaves by itself: its process was asked to stop."""


class Stage(StrEnum):
    """How far an execution has come, by what its journal says."""

    OFFERED = "offered"
    """The node has not acknowledged the lease."""
    STARTING = "starting"
    """No call so far: a sandbox starts, or an earlier execution is replayed."""
    MODEL = "model"
    """It waits for the model."""
    THINKING = "think"
    """It has the last answer and makes something of it."""
    HTTP_OUT = "http.out"
    """It waits for the target."""


STAGE_WORDS = {
    Stage.OFFERED: "offered",
    Stage.STARTING: "starting",
    Stage.MODEL: "waits for the model",
    Stage.THINKING: "thinks",
    Stage.HTTP_OUT: "waits for the target",
}


@dataclass(frozen=True, slots=True)
class Drained:
    """What a drain came to as it was asked for."""

    deadline_at: datetime
    deadline_before: datetime | None
    """Set when the node was draining already."""
    taken_back: int
    """Offers that the node had not acknowledged; their runs wait for another node."""


class Drains:
    """What operators decide about nodes.

    Args:
        pool: Connections to Postgres.
        leases: Where offers that are taken back are forgotten.
    """

    def __init__(self, pool: Pool, leases: Leases) -> None:
        self._pool = pool
        self._leases = leases

    async def drain(self, node_id: str, actor: str, deadline_s: float | None = None) -> Drained:
        """Give a node no more leases, and until the deadline to end what it runs.

        When this returns, what the node holds is all that it will: offers that it had not
        acknowledged are taken back in the same transaction. A node that drains already gets the
        new deadline, be it sooner or later.

        Args:
            node_id: The node.
            actor: Who wants it, for the audit.
            deadline_s: Seconds from now; 0 hands everything back at once. None keeps the deadline
                of a drain that is under way, and gives a new one ten minutes.

        Raises:
            NotFound: There is no such node.
            Unavailable: Postgres is away; whether it was done may be unknown, so ask again.
        """
        row, taken_back = await self._cordoned(
            _QUERIES.drain,
            node_id=node_id,
            actor=actor,
            deadline_s=deadline_s,
            default_s=DRAIN_DEADLINE_S,
        )
        _log.info("node_drains", node_id=node_id, taken_back=taken_back, **row)
        return Drained(taken_back=taken_back, **row)

    async def cordon(self, node_id: str, actor: str) -> int:
        """Give a node no more leases; it keeps what it runs.

        Returns:
            How many offers that it had not acknowledged were taken back.

        Raises:
            NotFound: There is no such node.
            Unavailable: Postgres is away; whether it was done may be unknown, so ask again.
        """
        _, taken_back = await self._cordoned(_QUERIES.cordon, node_id=node_id, actor=actor)
        _log.info("node_cordoned", node_id=node_id, taken_back=taken_back)
        return taken_back

    async def uncordon(self, node_id: str, actor: str) -> datetime | None:
        """Give a node leases again, and call off its drain.

        Returns:
            The deadline of the drain that was called off, if there was one.

        Raises:
            NotFound: There is no such node.
            Unavailable: Postgres is away.
        """
        row = await fetch_one(self._pool, _QUERIES.uncordon, node_id=node_id, actor=actor)
        if row is None:
            raise _unknown(node_id)
        _log.info("node_uncordoned", node_id=node_id, called_off=row["deadline_before"])
        before: datetime | None = row["deadline_before"]
        return before

    async def forget(self, node_id: str, actor: str, silent_s: float) -> None:
        """Take a node that has ended out of the fleet; should it come back, it is a new one.

        Args:
            node_id: The node.
            actor: Who wants it, for the audit.
            silent_s: Seconds without a heartbeat after which a node may be forgotten.

        Raises:
            NotFound: There is no such node.
            Conflict: It was heard of just now, or still holds leases.
            Unavailable: Postgres is away.
        """
        row = await fetch_one(
            self._pool, _QUERIES.forget, node_id=node_id, actor=actor, silent_s=silent_s
        )
        if row is None:
            raise _unknown(node_id)
        if row["lives"]:
            raise Conflict(
                f"node {node_id!r} is alive: stop it first; a node is forgotten once it has not "
                f"been heard of for {silent_s:g} s"
            )
        if row["holds"]:
            raise Conflict(
                f"node {node_id!r} holds {row['holds']} leases still: they lapse by themselves; "
                "try again in a moment"
            )
        _log.info("node_forgotten", node_id=node_id)

    async def remaining(self, node_id: str) -> Sequence[Mapping[str, Any]]:
        """List the leases of a node, oldest first, each with its ``stage`` and ``left_s``.

        ``left_s`` is what is left of the run's own working time, seconds; None for an offer.
        """
        rows = await fetch_all(self._pool, _QUERIES.remaining, node_id=node_id)
        return [{**row, "stage": stage_of(row), "left_s": _left_s(row)} for row in rows]

    def empty_within_s(self, left_s: float) -> float:
        """Return seconds after which a draining node holds nothing, whatever it does.

        A node that does not hand back is renewed for one time to live after its deadline; then its
        leases lapse, after another one, and are reaped.

        Args:
            left_s: Seconds to the deadline.
        """
        return left_s + 2 * self._leases.ttl_s + _REAPED_WITHIN_S

    async def _cordoned(self, query: Any, **values: object) -> tuple[dict[str, Any], int]:
        """Change a node's row and take its offers back, in one transaction and one round trip."""
        node_id = NodeId(str(values["node_id"]))
        with translated():
            async with self._pool.connection() as connection, connection.transaction():
                async with connection.pipeline():
                    changed = await connection.execute(query, values)
                    await connection.execute(_QUERIES.lock_offers, {"node_id": node_id})
                    offered = await connection.execute(_QUERIES.take_back, {"node_id": node_id})
                row = await changed.fetchone()
                rows = await offered.fetchall()
        if row is None:
            raise _unknown(node_id)
        self._leases.taken_back(rows)
        return row, len(rows)


def state_of(row: Mapping[str, Any]) -> NodeState:
    """Return a node's state by its row."""
    if row["status"].get("closing"):
        return NodeState.CLOSING
    if row["drain_deadline_at"] is not None:
        return NodeState.DRAINING if row["slots_used"] else NodeState.DRAINED
    return NodeState.READY if row["cordoned_at"] is None else NodeState.CORDONED


def stage_of(row: Mapping[str, Any]) -> Stage:
    """Return how far an execution has come: by its lease, and the last step under its epoch."""
    if row["acknowledged_at"] is None:
        return Stage.OFFERED
    if row["step_kind"] is None:
        return Stage.STARTING
    if row["step_answered"]:
        return Stage.THINKING
    return Stage.MODEL if row["step_kind"] == StepKind.MODEL else Stage.HTTP_OUT


def _left_s(row: Mapping[str, Any]) -> float | None:
    if row["held_s"] is None:
        return None
    budgets = msgspec.convert(row["target"], DeploymentSpec).budgets
    return max(0.0, budgets.max_duration_s - float(row["worked_s"] + row["held_s"]))


def _unknown(node_id: str) -> NotFound:
    return NotFound(f"there is no node {node_id!r}; `bpa nodes list` shows those there are")
