"""Make a plan come true as far as it still fits.

First the slot holds, one script for the batch; then the grants, one round trip to Postgres: a
statement that locks the nodes and deployments concerned, and one that re-checks each proposal
against what is so now (run, boot id, cordon, revision, hold generation) and counts leases. So
Postgres alone keeps nodes and deployments from being oversubscribed, whatever Valkey believes; the
holds keep replicas that plan at once from colliding there.

With Valkey away nothing is placed: runs wait and say so, while what runs already is renewed and
finished without it. Placing on Postgres's word alone would be safe too, but then replicas would
collide on every free slot, and the outage would show nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec
import structlog

from bpa.domain.runs import DeploymentId, NodeId, RunId
from bpa.errors import Unavailable
from bpa.postgres import Pool, load_queries, translated
from bpa.scheduler.fleet import ALONE_FROM
from bpa.scheduler.holds import Hold, Holds, OtherGeneration, Verdict
from bpa.scheduler.planner import Explanation, Plan, Proposal, Unplaced

QUERIES = load_queries(__file__)
_NODES_WRITTEN = 100  # reasons kept with a run; the summary counts them all

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Grant:
    """A run that now has a lease, offered to a node and not acknowledged yet."""

    run_id: RunId
    node_id: NodeId
    boot_id: str
    dep_id: DeploymentId
    epoch: int
    waited_s: float
    """Seconds from when the run could have started, by Postgres's clock."""


class Obstacle(StrEnum):
    """What was in the way of a proposal."""

    GENERATION = "generation"
    """The holds were of another generation; they are rebuilt now."""
    RUN = "run"
    """The run no longer waits, or another replica has it in hand."""
    NODE = "node"
    """The node restarted, is cordoned, leaves or is gone."""
    DEPLOYMENT = "deployment"
    """The deployment was changed or paused."""
    FULL = "full"
    """The node or the deployment has been filled meanwhile."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A proposal that did not come true; plan again."""

    proposal: Proposal
    obstacle: Obstacle


@dataclass(frozen=True, slots=True)
class CommitResult:
    """What became of a plan's proposals."""

    grants: tuple[Grant, ...]
    refused: tuple[Refused, ...]


_BY_VERDICT = {
    Verdict.NODE: Obstacle.FULL,
    Verdict.DEPLOYMENT: Obstacle.FULL,
    Verdict.HELD: Obstacle.RUN,
}


class Committer:
    """Commits plans; any number of replicas do so at once.

    Args:
        pool: Connections to Postgres.
        holds: The slot holds.
        offer_ttl_s: How long a node has to acknowledge an offer.
    """

    def __init__(self, pool: Pool, holds: Holds, *, offer_ttl_s: float) -> None:
        self._pool = pool
        self._holds = holds
        self._offer_ttl_s = offer_ttl_s
        self._told: dict[RunId, Explanation] = {}

    async def commit(self, plan: Plan) -> CommitResult:
        """Grant what still fits and refuse the rest; give back the holds of what was refused.

        Holds of another generation are rebuilt here, and then all proposals are refused.

        Raises:
            Unavailable: Valkey or Postgres is away. Whether something was granted may be unknown;
                a grant that nobody heard of is offered when its node pulls, or lapses.
        """
        if not plan.proposals:
            return CommitResult((), ())
        taken, refused = await self._take(plan)
        if not taken:
            return CommitResult((), tuple(refused))
        try:
            rows = await self._grant(plan.hold_generation, taken)
        except BaseException:
            self._holds.release(map(_hold, taken))
            raise
        grants = []
        for proposal, row in zip(taken, rows, strict=True):
            if row["refused"] is None:
                grants.append(_granted(proposal, row))
            else:
                refused.append(Refused(proposal, Obstacle(row["refused"])))
                self._holds.release([_hold(proposal)])
        return CommitResult(tuple(grants), tuple(refused))

    async def flush(self, generation: int) -> None:
        """Give back what was released since the last commit, so that others can have it.

        Raises:
            Unavailable: Valkey is away; the holds expire by themselves.
        """
        try:
            await self._holds.change(generation)
        except OtherGeneration as other:
            await self.rebuild(generation, other.present)

    async def refresh(self) -> int:
        """Prolong the holds of all leases and return how many; rebuild them if they are not there.

        Raises:
            Unavailable: Valkey or Postgres is away.
        """
        generation, holds = await self._leases()
        try:
            await self._holds.refresh(generation, holds)
        except OtherGeneration as other:
            await self.rebuild(generation, other.present)
        return len(holds)

    async def rebuild(self, seen: int, present: int) -> None:
        """Start a new hold generation from the leases in Postgres.

        The generation rises first, so that no grant under the old one can slip in behind the
        reading of the leases; a replica that comes later with an older one changes nothing.

        Args:
            seen: The generation in Postgres when the need was found.
            present: The one in Valkey, 0 for none; the new one is above both.

        Raises:
            Unavailable: Valkey or Postgres is away.
        """
        with translated():
            async with self._pool.connection() as connection:
                cursor = await connection.execute(
                    QUERIES.raise_generation, {"seen": seen, "present": present}
                )
                if await cursor.fetchone() is None:
                    return  # another replica is at it, or will be found not to have finished
        generation, holds = await self._leases()
        written = await self._holds.rebuild(generation, holds)
        if written:
            _log.info("holds_rebuilt", generation=generation, holds=len(holds))

    async def explain(self, unplaced: Sequence[Unplaced]) -> int:
        """Write down why runs wait, for those where that has changed; return how many.

        Raises:
            Unavailable: Postgres is away.
        """
        changed = [left for left in unplaced if not self._is_told(left)]
        count = await self._write(changed) if changed else 0
        self._told = {left.run_id: left.explanation for left in unplaced}
        return count

    def _is_told(self, left: Unplaced) -> bool:
        """Say if the run's row has this explanation, as far as this replica knows."""
        return (
            left.run.told == left.explanation.summary
            and self._told.get(left.run_id) == left.explanation
        )

    async def _write(self, unplaced: Sequence[Unplaced]) -> int:
        distinct: dict[int, tuple[int, Explanation]] = {}  # runs of a kind share their explanation
        for left in unplaced:
            distinct.setdefault(id(left.explanation), (len(distinct) + 1, left.explanation))
        explanations = [explanation for _, explanation in distinct.values()]
        parameters = {
            "run_ids": [left.run_id for left in unplaced],
            "nths": [distinct[id(left.explanation)][0] for left in unplaced],
            "summaries": [explanation.summary for explanation in explanations],
            "nodes": [_nodes_json(explanation) for explanation in explanations],
        }
        with translated():
            async with self._pool.connection() as connection:
                cursor = await connection.execute(QUERIES.explain, parameters)
                return cursor.rowcount

    async def _take(self, plan: Plan) -> tuple[list[Proposal], list[Refused]]:
        proposals = plan.proposals
        try:
            verdicts = await self._holds.change(
                plan.hold_generation,
                [_hold(proposal) for proposal in proposals],
                {proposal.node.node_id: proposal.node.slots for proposal in proposals},
                {p.deployment.dep_id: p.deployment.run_limit for p in proposals},
            )
        except OtherGeneration as other:
            await self.rebuild(plan.hold_generation, other.present)
            return [], [Refused(proposal, Obstacle.GENERATION) for proposal in proposals]
        taken, refused = [], []
        for proposal, verdict in zip(proposals, verdicts, strict=True):
            if verdict is Verdict.TAKEN:
                taken.append(proposal)
            else:
                refused.append(Refused(proposal, _BY_VERDICT[verdict]))
        return taken, refused

    async def _grant(self, generation: int, taken: Sequence[Proposal]) -> list[dict[str, Any]]:
        nodes = {proposal.node.node_id for proposal in taken}
        deployments = {proposal.deployment.dep_id for proposal in taken}
        locked = {"node_ids": _json(list(nodes)), "dep_ids": _json(list(deployments))}
        proposals = [_row(nth, proposal) for nth, proposal in enumerate(taken)]
        granted = {
            "generation": str(generation),
            "ttl_s": self._offer_ttl_s,
            "alone_from": ALONE_FROM,
            "proposals": _json(proposals),
        }
        with translated():
            async with self._pool.connection() as connection:
                # What is sent up to the pipeline's end is one transaction and one round trip.
                async with connection.pipeline():
                    await connection.execute(QUERIES.lock, locked)
                    cursor = await connection.execute(QUERIES.grant, granted)
                return await cursor.fetchall()

    async def _leases(self) -> tuple[int, list[Hold]]:
        """Read the generation, then the leases: never the other way round."""
        with translated():
            async with self._pool.connection() as connection:
                cursor = await connection.execute(QUERIES.generation)
                row = await cursor.fetchone()
                if row is None:
                    raise Unavailable(
                        "the setting hold_generation is missing: apply the migrations"
                    )
                cursor = await connection.execute(QUERIES.leases)
                return row["generation"], [Hold(**lease) for lease in await cursor.fetchall()]


def _hold(proposal: Proposal) -> Hold:
    return Hold(proposal.run.run_id, proposal.node.node_id, proposal.deployment.dep_id)


def _row(nth: int, proposal: Proposal) -> dict[str, Any]:
    deployment = proposal.deployment
    return {
        "nth": nth,
        "run_id": proposal.run.run_id,
        "node_id": proposal.node.node_id,
        "boot_id": proposal.node.boot_id,
        "dep_id": deployment.dep_id,
        "revision": deployment.revision,
        "run_limit": deployment.run_limit,
        "cpu_millis": deployment.needs.cpu_millis,
        "memory_bytes": deployment.needs.memory_bytes,
    }


def _granted(proposal: Proposal, row: dict[str, Any]) -> Grant:
    return Grant(
        run_id=proposal.run.run_id,
        node_id=proposal.node.node_id,
        boot_id=proposal.node.boot_id,
        dep_id=proposal.deployment.dep_id,
        epoch=row["epoch"],
        waited_s=max(row["waited_s"], 0.0),
    )


def _nodes_json(explanation: Explanation) -> str:
    kept = list(explanation.nodes.items())[:_NODES_WRITTEN]
    return _json(dict(kept))


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
