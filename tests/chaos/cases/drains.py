"""Nodes that an operator empties while they are at work."""

from __future__ import annotations

from tests.chaos.fleet import Supervised
from tests.chaos.scene import Act, Case
from tests.chaos.watch import rows
from tests.eventually import eventually

_LEASES = "select run_id::text as run_id, epoch from leases where node_id = %(node_id)s"
_LEFT = """
select
    count(*) filter (where node_id <> %(node_id)s or ended_at is null) as handed_back,
    coalesce(sum(agent_failures + crashes + infra_failures), 0) as failures
from runs where run_id = any(%(run_ids)s::uuid[])
"""


async def drain_nodes(act: Act) -> None:
    """Drain a node that holds leases, now or soon, and the other one once that is taken back."""
    for node, deadline_s in zip(act.rng.sample(act.fleet.nodes, 2), (0.0, 1.0), strict=True):
        await act.busy(node, least=3)
        path = f"/v1/nodes/{node.name}"
        answer = await act.fleet.post(f"{path}:drain", {"deadlineS": deadline_s})
        kept = {lease["runId"]: lease["epoch"] for lease in answer["node"]["leases"]}
        act.bit("leases of a drained node", len(kept))
        await _emptied(act, node, kept)
        (left,) = await rows(act.servers.postgres.dsn, _LEFT, node_id=node.name, run_ids=list(kept))
        act.bit("leases handed back", left["handed_back"])
        assert left["failures"] == 0, "a hand-back costs nothing"
        await act.fleet.post(f"{path}:uncordon", {})
        await act.fleet.whole()


async def _emptied(act: Act, node: Supervised, kept: dict[str, int]) -> None:
    """Wait until a drained node holds nothing; until then it holds no lease that it had not."""
    seen: dict[str, int] = {}

    async def probe() -> bool:
        found = await rows(act.servers.postgres.dsn, _LEASES, node_id=node.name)
        seen.update({row["run_id"]: row["epoch"] for row in found})
        assert not found, f"{node.name} holds {len(found)} leases"
        return True

    await eventually(probe, within_s=20, every_s=0.05)
    new = {run_id for run_id, epoch in seen.items() if kept.get(run_id) != epoch}
    assert not new, f"{node.name} got leases after its drain was answered: {new}"


CASES = (
    Case(
        "drain-nodes",
        drain_nodes,
        bites=("leases of a drained node", "leases handed back"),
        is_short=True,
        model_ms=1500.0,
    ),
)
