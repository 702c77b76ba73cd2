"""Planners at work on one fleet: what happens to it, and what must hold however it happens."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

from bpa.scheduler.commit import CommitResult
from bpa.scheduler.holds import Hold
from bpa.scheduler.planner import Plan, plan
from tests.integration.scheduler.conftest import Fleet, Replica

NODES = {"node-1": 3, "node-2": 2, "node-3": 1}
DEPLOYMENTS = {"dep-1": 4, "dep-2": 6}
RUNS_MAX = 40

CLEAR = ("delete from runs", "delete from nodes")
RENEW_ALL = "update nodes set heartbeat_at = now()"
CHANGES = {
    "cordon": "update nodes set cordoned_at = now() where node_id = %(node)s",
    "uncordon": "update nodes set cordoned_at = null",
    "close": "update nodes set status = '{\"closing\": true}' where node_id = %(node)s",
    "pause": "update deployments set status = '{\"active\": false}' where dep_id = %(dep)s",
    "resume": "update deployments set status = '{\"active\": true}'",
}
BOOT = "update nodes set boot_id = %(boot)s, status = '{}' where node_id = %(node)s"
LEFT_BEHIND = """
select leases.run_id::text as run_id, node_id, leases.dep_id from leases
join nodes using (node_id) where leases.boot_id <> nodes.boot_id
"""
HELD = "select run_id::text as run_id, node_id, dep_id from leases order by run_id"
TAKE_BACK = """
with moved as (
    update runs set status = 'queued', waiting_reason = 'its node was lost'
    where run_id = any(%(ids)s::uuid[]))
delete from leases where run_id = any(%(ids)s::uuid[])
"""
SEEN = """
select
    (select count(*) from runs where status = 'offered') as offered,
    (select count(*) from runs join leases using (run_id)
     where status = 'offered' and lease_epoch = epoch) as leased,
    (select count(*) from leases) as leases
"""


class World:
    """Some replicas, each with the plan that it made when it last looked."""

    def __init__(self, fleet: Fleet, replicas: Sequence[Replica], counts: Counter[str]) -> None:
        self.fleet = fleet
        self.replicas = replicas
        self.counts = counts
        self.plans: dict[int, Plan] = {}
        self.boots = 1
        self._epochs: dict[str, int] = {}

    async def open(self) -> None:
        await self.replicas[0].valkey.flushall()
        for replica in self.replicas:
            replica.holds._released.clear()
        for statement in (*CLEAR, CHANGES["resume"]):
            await self.fleet.rows(statement)
        for name, budget in DEPLOYMENTS.items():
            await self.fleet.deployment(name, budget=budget)
        for name, slots in NODES.items():
            await self.fleet.node(name, slots)
        self.fleet.number = 0

    # -- what planners do --------------------------------------------------------------------------

    async def look(self, n: int) -> None:
        await self.fleet.rows(RENEW_ALL)
        self.plans[n] = plan(await self.replicas[n].reader.read())

    async def commit(self, n: int) -> None:
        """Commit what the planner saw when it last looked, however long ago; it may do so twice."""
        if n in self.plans:
            replica = self.replicas[n]
            await self.judge([await replica.committer.commit(self.plans[n])])
            await replica.committer.flush(self.plans[n].hold_generation)

    async def commit_at_once(self) -> None:
        """Have all planners look, then all commit."""
        for n in range(len(self.replicas)):
            await self.look(n)
        results = await asyncio.gather(
            *(one.committer.commit(self.plans[n]) for n, one in enumerate(self.replicas))
        )
        self.counts["overtaken at once"] += sum(len(result.refused) for result in results)
        await self.judge(results)

    async def die_between_hold_and_grant(self, n: int) -> None:
        if n in self.plans:
            taken, _ = await self.replicas[n].committer._take(self.plans[n])
            self.counts["holds without a grant"] += len(taken)

    async def judge(self, results: Sequence[CommitResult]) -> None:
        """Check what was granted against what is so now; nothing else happens meanwhile."""
        grants = [grant for result in results for grant in result.grants]
        for result in results:
            self.counts.update(f"refused: {refused.obstacle}" for refused in result.refused)
        self.counts["granted"] += len(grants)
        assert len({grant.run_id for grant in grants}) == len(grants), "a run was granted twice"
        for grant in grants:
            assert grant.epoch > self._epochs.get(grant.run_id, 0), "an epoch was used again (I3)"
            self._epochs[grant.run_id] = grant.epoch
        nodes = {row["node_id"]: row for row in await self.fleet.rows("select * from nodes")}
        for grant in grants:
            node = nodes[grant.node_id]
            assert grant.boot_id == node["boot_id"], "granted to a boot that is over"
            assert node["cordoned_at"] is None, "granted to a cordoned node"
            assert not node["status"].get("closing"), "granted to a node that leaves"
        leased = await self.fleet.leases_by("dep_id")
        for row in await self.fleet.rows("select dep_id, target, status from deployments"):
            if any(grant.dep_id == row["dep_id"] for grant in grants):
                assert leased[row["dep_id"]] <= row["target"]["target"]["slotBudget"]
                assert row["status"]["active"]

    # -- what happens to the fleet -----------------------------------------------------------------

    async def arrive(self, count: int, dep: str) -> None:
        if self.fleet.number < RUNS_MAX:
            await self.fleet.runs(count, dep)

    async def free(self, n: int, pick: int, *, is_told: bool) -> None:
        """End a run; a replica that died before it gave the hold back leaves that to expire."""
        leases = await self.fleet.rows(HELD)
        if leases:
            lease = leases[pick % len(leases)]
            await self.fleet.finish([lease["run_id"]])
            if is_told:
                self.replicas[n].holds.release([Hold(**lease)])

    async def boot(self, node: str, n: int) -> None:
        """Start a node anew; what its earlier boot held waits again."""
        self.boots += 1
        await self.fleet.rows(BOOT, node=node, boot=f"boot-{self.boots}")
        left = await self.fleet.rows(LEFT_BEHIND)
        await self.fleet.rows(TAKE_BACK, ids=[lease["run_id"] for lease in left])
        self.replicas[n].holds.release(Hold(**lease) for lease in left)
        self.counts["taken from an earlier boot"] += len(left)

    async def rebuild(self, n: int) -> None:
        snapshot = await self.replicas[n].reader.read()
        await self.replicas[n].committer.rebuild(snapshot.hold_generation, 0)
        by_node = {node: len(runs) for node, runs in (await self.held()).items() if runs}
        assert by_node == await self.fleet.leases_by("node_id"), "holds are what leases are"

    async def expire_holds(self) -> None:
        """Let the time of all holds be over."""
        valkey = self.replicas[0].valkey
        for key in await valkey.keys("{bpa:holds}:*"):
            for member in await valkey.zrange(key, 0, -1):
                await valkey.zadd(key, {member: 1})
                self.counts["holds expired"] += 1

    async def held(self) -> dict[str, set[str]]:
        """Return the runs with a living hold of the present generation, by node."""
        valkey = self.replicas[0].valkey
        generation = await valkey.get("{bpa:holds}")
        keys = {node: f"{{bpa:holds}}:{generation}:node:{node}" for node in NODES}
        return {node: set(await valkey.zrangebyscore(key, 2, "+inf")) for node, key in keys.items()}

    # -- what must hold ----------------------------------------------------------------------------

    async def check(self) -> None:
        for node, used in (await self.fleet.leases_by("node_id")).items():
            assert used <= NODES[node], f"{node} is oversubscribed"
        for node, holds in (await self.held()).items():
            assert len(holds) <= NODES[node], f"more holds than slots on {node}"
        [seen] = await self.fleet.rows(SEEN)
        assert seen["offered"] == seen["leased"] == seen["leases"], "a lease without its run"

    async def settle_down(self) -> None:
        """Let trouble end: a few passes of one planner place all that there is room for."""
        await self.fleet.rows(CHANGES["uncordon"])
        await self.fleet.rows(CHANGES["resume"])
        for node in NODES:
            await self.boot(node, 0)
        await self.expire_holds()
        await self.replicas[0].committer.refresh()
        for _ in range(3):
            await self.look(0)
            await self.commit(0)
            await self.check()
        leased = await self.fleet.leases_by("dep_id")
        free = sum(NODES.values()) - sum(leased.values())
        waiting = {
            row["dep_id"]: row["n"]
            for row in await self.fleet.rows(
                "select dep_id, count(*) as n from runs where status = 'queued' group by dep_id"
            )
        }
        for row in await self.fleet.rows("select dep_id, target from deployments"):
            room = row["target"]["target"]["slotBudget"] - leased.get(row["dep_id"], 0)
            left = min(free, room, waiting.get(row["dep_id"], 0))
            assert left <= 0, f"{left} runs of {row['dep_id']} wait although there is room"


async def happens(world: World, what: str, pick: int, n: int) -> None:
    """Let one event come."""
    node = list(NODES)[pick % len(NODES)]
    dep = list(DEPLOYMENTS)[pick % len(DEPLOYMENTS)]
    match what:
        case "arrive":
            await world.arrive(1 + pick % 4, dep)
        case "look":
            await world.look(n)
        case "commit":
            await world.commit(n)
        case "at once":
            await world.commit_at_once()
        case "die":
            await world.die_between_hold_and_grant(n)
        case "free":
            await world.free(n, pick, is_told=pick % 4 > 0)
        case _:
            await trouble(world, what, node, dep, n, pick)


async def trouble(world: World, what: str, node: str, dep: str, n: int, pick: int) -> None:
    match what:
        case "boot":
            await world.boot(node, n)
        case "revise":
            await world.fleet.deployment(dep, budget=1 + pick % 6)
        case "flush":
            await world.replicas[0].valkey.flushall()
        case "rebuild":
            await world.rebuild(n)
        case "refresh":
            await world.replicas[n].committer.refresh()
        case "expire":
            await world.expire_holds()
        case _:
            await world.fleet.rows(CHANGES[what], node=node, dep=dep)


PLANNERS = ["look"] * 3 + ["commit"] * 4 + ["at once"] * 2 + ["die"]
WORK = ["arrive"] * 2 + ["free"] * 3
TROUBLE = ["cordon", "uncordon", "close", "boot", "boot", "revise", "pause", "resume", "resume"]
STORES = ["flush", "rebuild", "refresh", "expire", "expire"]


def random_event(rng: random.Random) -> tuple[str, int, int]:
    names = rng.choice([PLANNERS, PLANNERS, WORK, TROUBLE, STORES])
    return rng.choice(names), rng.randrange(24), rng.randrange(3)
