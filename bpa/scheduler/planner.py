"""Say which waiting run should go to which node, and why the others wait. Pure.

Runs of a deployment are interchangeable but for their age (those that have to be alone on their
node wait apart), and deployments with equal needs see the same nodes. So each node is judged once
for each distinct need, not for each run, and what remains for a run is a heap's push and pop.

Order: the deployment that uses the smallest share of its own limit goes next, then the one whose
oldest run waits longest; within it the oldest run. A long backlog of one cannot starve another.
Choice: the node with the smallest fraction of used slots after placing (least-loaded); ties are
shuffled with the snapshot's seed.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from bpa.domain.runs import DeploymentId, NodeId, RunId
from bpa.scheduler.constraints import (
    Candidate,
    Refusal,
    Why,
    candidates,
    is_awaited,
    limit,
    refusal,
)
from bpa.scheduler.fleet import ALONE_FROM, Deployment, Needs, Node, Snapshot, WaitingRun

_NODES_IN_A_SUMMARY = 3


@dataclass(frozen=True, slots=True)
class Proposal:
    """A run, and the node it should go to: what commit has to verify."""

    run: WaitingRun
    node: Node
    deployment: Deployment


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a run waits."""

    why: Why
    summary: str
    """One line for people."""
    nodes: Mapping[NodeId, str]
    """Each node's reason; empty when a limit keeps the run off all of them."""


@dataclass(frozen=True, slots=True)
class Unplaced:
    """A run that waits, and why."""

    run: WaitingRun
    explanation: Explanation

    @property
    def run_id(self) -> RunId:
        """The run's id."""
        return self.run.run_id


@dataclass(frozen=True, slots=True)
class Plan:
    """What should happen; a proposal until it is committed."""

    hold_generation: int
    proposals: tuple[Proposal, ...]
    unplaced: tuple[Unplaced, ...]


_Turn = tuple[float, datetime, DeploymentId, bool]
"""The smallest goes next; its end names the queue."""


@dataclass(slots=True)
class _Queue:
    """One deployment's waiting runs of a kind while the plan grows."""

    deployment: Deployment
    needs: Needs
    runs: deque[WaitingRun]

    @property
    def host(self) -> str:
        """Whose breaker limits it; empty where none does."""
        return self.deployment.gate.host if self.deployment.gate else ""

    def turn(self, placed: int) -> _Turn:
        """Return when it is its turn, with so many of its deployment's runs placed."""
        share = (self.deployment.leased + placed) / max(self.deployment.run_limit, 1)
        return share, self.runs[0].created_at, self.deployment.dep_id, self.needs.alone


class _Pool:
    """The nodes that may take runs with equal needs, the least loaded on top.

    Loads change through other pools too, but only upwards; so a node is judged again when it comes
    to the top, and goes back with its present load if that has risen.
    """

    def __init__(self, needs: Needs, ranked: Sequence[Candidate], snapshot: Snapshot) -> None:
        self._needs = needs
        self._ranked = ranked
        self._snapshot = snapshot
        self._heap = [
            (candidate.load_with_one_more, rank)
            for rank, candidate in enumerate(ranked)
            if refusal(needs, candidate, snapshot) is None
        ]
        heapq.heapify(self._heap)

    def take(self) -> Node | None:
        """Give one run's worth of the least loaded node, or None if no node fits any more."""
        while self._heap:
            load, rank = self._heap[0]
            candidate = self._ranked[rank]
            if refusal(self._needs, candidate, self._snapshot) is not None:
                heapq.heappop(self._heap)
            elif candidate.load_with_one_more > load:
                heapq.heapreplace(self._heap, (candidate.load_with_one_more, rank))
            else:
                candidate.take(self._needs)
                heapq.heapreplace(self._heap, (candidate.load_with_one_more, rank))
                return candidate.node
        return None


def plan(snapshot: Snapshot) -> Plan:
    """Place as many waiting runs as fit and explain the others; equal input, equal plan."""
    ranked = candidates(snapshot)
    random.Random(snapshot.seed).shuffle(ranked)  # noqa: S311 - it breaks ties, it keeps no secret
    queues = _queues(snapshot)
    pools: dict[Needs, _Pool] = {}
    placed: Counter[DeploymentId] = Counter()
    at_host: Counter[str] = Counter()
    reserved: set[DeploymentId] = set()
    proposals: list[Proposal] = []
    waiting: list[tuple[_Queue, Refusal | None]] = []
    turns = [queue.turn(0) for queue in queues.values()]
    heapq.heapify(turns)
    while turns:
        queue = queues[turns[0][2:]]
        deployment, dep_id = queue.deployment, queue.deployment.dep_id
        turn = queue.turn(placed[dep_id])
        if turn > turns[0]:  # a run of the deployment's other queue was placed meanwhile
            heapq.heapreplace(turns, turn)
            continue
        at = placed[dep_id], at_host[queue.host]
        refused = limit(deployment, *at, reserved=dep_id in reserved)
        node = None if refused else _pool(pools, queue.needs, ranked, snapshot).take()
        if node is None:
            heapq.heappop(turns)
            waiting.append((queue, refused))
            if not refused and queue.needs.alone and is_awaited(queue.needs, ranked, snapshot):
                reserved.add(dep_id)
            continue
        proposals.append(Proposal(queue.runs.popleft(), node, deployment))
        placed[dep_id] += 1
        at_host[queue.host] += 1
        if queue.runs:
            heapq.heapreplace(turns, queue.turn(placed[dep_id]))
        else:
            heapq.heappop(turns)
    unplaced = _explain(waiting, ranked, snapshot)
    return Plan(snapshot.hold_generation, tuple(proposals), tuple(unplaced))


def _queues(snapshot: Snapshot) -> dict[tuple[DeploymentId, bool], _Queue]:
    """Return each deployment's runs, apart from those that have to be alone: they wait longer."""
    queues: dict[tuple[DeploymentId, bool], _Queue] = {}
    for run in snapshot.waiting:
        deployment = snapshot.deployments[run.dep_id]
        key = run.dep_id, run.alone
        if key not in queues:
            queues[key] = _Queue(deployment, deployment.needs_of(run), deque())
        queues[key].runs.append(run)
    return queues


def _pool(
    pools: dict[Needs, _Pool], needs: Needs, ranked: Sequence[Candidate], snapshot: Snapshot
) -> _Pool:
    pool = pools.get(needs)
    if pool is None:
        pool = pools[needs] = _Pool(needs, ranked, snapshot)
    return pool


def _explain(
    waiting: Iterable[tuple[_Queue, Refusal | None]],
    ranked: Sequence[Candidate],
    snapshot: Snapshot,
) -> Iterable[Unplaced]:
    """Explain each deployment's remaining runs, judging the nodes once for each distinct need."""
    by_needs: dict[Needs, Explanation] = {}
    for queue, refused in waiting:
        needs = queue.needs
        if refused is not None:
            explanation = Explanation(refused.why, refused.text, {})
        elif needs in by_needs:
            explanation = by_needs[needs]
        else:
            explanation = by_needs[needs] = _refused_by_all(needs, ranked, snapshot)
        for run in queue.runs:
            yield Unplaced(run, explanation)


def _refused_by_all(needs: Needs, ranked: Sequence[Candidate], snapshot: Snapshot) -> Explanation:
    refusals: dict[NodeId, Refusal] = {}
    for candidate in sorted(ranked, key=lambda candidate: candidate.node.node_id):
        refused = refusal(needs, candidate, snapshot)
        assert refused is not None, "a node that fits was left out of the plan"
        refusals[candidate.node.node_id] = refused
    counts = Counter(refused.why for refused in refusals.values())
    why = next(iter(counts)) if len(counts) == 1 else Why.NODES if counts else Why.NO_NODES
    must = f"must be alone on a node after {ALONE_FROM} infrastructure failures; "
    return Explanation(
        why,
        (must if needs.alone else "") + _summary(why, needs, refusals, counts),
        {node_id: refused.text for node_id, refused in refusals.items()},
    )


_HEADLINES = {
    Why.SILENT: "no node is heard of",
    Why.DRAINING: "every node is draining",
    Why.CORDONED: "every node is cordoned",
    Why.SLOTS: "no node has a free slot",
    Why.RESOURCES: "no node has the resources",
    Why.ALONE: "no node may be shared",
}
_COUNTED = {
    Why.SILENT: "{} silent",
    Why.DRAINING: "{} draining",
    Why.CORDONED: "{} cordoned",
    Why.LABELS: "{} with other labels",
    Why.SLOTS: "{} without a free slot",
    Why.RESOURCES: "{} without the resources",
    Why.ALONE: "{} that may not be shared",
}


def _summary(
    why: Why, needs: Needs, refusals: Mapping[NodeId, Refusal], counts: Mapping[Why, int]
) -> str:
    if why is Why.NO_NODES:
        return "no node is registered"
    if why is Why.NODES:
        parts = (_COUNTED[kind].format(counts[kind]) for kind in sorted(counts))
        return f"no node fits: {', '.join(parts)}"
    headline = f"no node has {_wanted(needs)}" if why is Why.LABELS else _HEADLINES[why]
    named = [f"{node_id} {refused.text}" for node_id, refused in refusals.items()]
    more = len(named) - _NODES_IN_A_SUMMARY
    tail = f" and {more} more" if more > 0 else ""
    return f"{headline}: {', '.join(named[:_NODES_IN_A_SUMMARY])}{tail}"


def _wanted(needs: Needs) -> str:
    return " and ".join(f"{label} in [{', '.join(values)}]" for label, values in needs.affinity)
