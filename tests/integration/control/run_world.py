"""Two control replicas over a real Postgres and a real Valkey, beside the rules they must keep."""

from __future__ import annotations

import asyncio
import copy
import itertools
import random
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from bpa.clocks import Clocks, boottime_s
from bpa.connectors import Message, SettlementLost
from bpa.control.breakers import Breakers
from bpa.control.deployments import Feeding
from bpa.control.history import History
from bpa.control.intake import Intake, Origin
from bpa.control.leases import Leases
from bpa.control.nodes import Nodes
from bpa.control.offers import Offers
from bpa.control.replays import Replays
from bpa.control.runs import Ended, Runs
from bpa.control.settlement import Settlement
from bpa.domain.runs import RunId, effect_key_of, run_id_of
from bpa.domain.specs import NodeSpec
from bpa.errors import BpaError, Conflict, Unavailable
from bpa.postgres import Notifications, Pipeline, Pool
from bpa.scheduler.commit import Committer
from bpa.scheduler.holds import Hold, Holds
from bpa.scheduler.planner import plan
from bpa.scheduler.snapshot import SnapshotReader
from bpa.telemetry.metrics import Metrics
from tests.integration.control.run_tables import Seen, of_rows, of_rules
from tests.integration.control.stories import Stories
from tests.simulation.rules import LEASED, Rules

CLOCKS = Clocks(3.0, time.time, boottime_s)

NODES = ("node-1", "node-2")
SLOTS = 2
GOOD = b"Invoice A-1 of ACME over 12.00 EUR."
ENQUEUED_MS = 1_763_800_000_000

SEEN = """
select
    (select json_agg(r) from runs r) as runs,
    (select json_agg(l) from leases l) as leases,
    (select json_agg(s) from steps s) as steps
"""
CLEAR = ("delete from runs", "delete from nodes", "delete from audit")
EXPIRE = (
    "update leases set expires_at = now() - interval '1 ms' where run_id = any(%(ids)s::uuid[])"
)
SILENCE = "update nodes set heartbeat_at = now() - interval '1 hour' where node_id = %(node_id)s"
NO_BACKOFF = "update runs set not_before = now() where not_before > now() and status = 'queued'"
AGE = """
update runs set agent_failures = %(agent_failures)s, crashes = %(crashes)s,
    infra_failures = %(infra_failures)s
where run_id = %(run_id)s::uuid
"""


@dataclass(slots=True)
class Waiting:
    """A message at the broker."""

    is_good: bool
    lock: str | None = None
    """Who holds it, and for which time: ``<replica>/<delivery>``."""
    deliveries: int = 0
    settled_as: str | None = None

    @property
    def is_free(self) -> bool:
        return self.lock is None and self.settled_as is None


class Queue:
    """A broker that keeps its promises about locks and loses answers when told to."""

    def __init__(
        self, verdict_of: Callable[[int], Awaitable[str | None]], counts: Counter[str]
    ) -> None:
        self.messages: dict[int, Waiting] = {}
        self.fault = ""
        """What becomes of the next settlement: busy, lost (before it was applied), unheard."""
        self._verdict_of = verdict_of
        self._counts = counts

    def arrive(self, *, is_good: bool) -> int:
        number = len(self.messages) + 1
        self.messages[number] = Waiting(is_good)
        return number

    def deliver(self, number: int, replica: str) -> Message:
        waiting = self.messages[number]
        assert waiting.is_free
        waiting.lock = f"{replica}/{waiting.deliveries}"
        waiting.deliveries += 1
        return Message(
            body=GOOD if waiting.is_good else b"\xff\xfe not text",
            content_type="text/plain",
            sequence_number=number,
            enqueued_ms=ENQUEUED_MS + number,
            locked_until=datetime.now(UTC) + timedelta(hours=1),
            delivery_count=waiting.deliveries - 1,
            receipt=waiting.lock,
        )

    async def complete(self, message: Message) -> None:
        await self._settle(message, "completed")

    async def dead_letter(self, message: Message, reason: str, description: str) -> None:
        await self._settle(message, reason)

    async def _settle(self, message: Message, settled_as: str) -> None:
        fault, self.fault = self.fault, ""
        waiting = self.messages[message.sequence_number]
        self._counts[f"settlement: {fault or 'no fault'}"] += 1
        if fault == "busy":
            raise Unavailable("the broker is too busy")
        if fault == "lost" and waiting.lock == message.receipt:
            waiting.lock = None
        if waiting.lock != message.receipt:
            raise SettlementLost("the lock is gone")
        committed = await self._verdict_of(message.sequence_number)
        assert committed == settled_as, "settled before the end of its run was committed (I5)"
        waiting.lock, waiting.settled_as = None, settled_as
        if fault == "unheard":
            raise SettlementLost("the link dropped before the answer")


class Replica:
    """One control replica, without its loops: what they would do is done when a test says so."""

    def __init__(self, name: str, world: World, metrics: Metrics) -> None:
        self.name = name
        self.writes = Pipeline(world.pool)
        self.runs = Runs(world.pool, self.writes, Breakers(world.pool, metrics), name)
        ttl_s = world.rules.ttl_s
        self.offers = Offers(world.pool, self.writes, ttl_s, metrics)
        self.leases = Leases(world.pool, self.writes, ttl_s, self.offers)
        self.nodes = Nodes(world.pool)
        self.holds = Holds(world.valkey)
        self.reader = SnapshotReader(world.pool, "dev", silent_after_s=3600)
        self.committer = Committer(world.pool, self.holds, offer_ttl_s=world.rules.ttl_s)
        unused = Notifications("", application_name=name, rng=random.Random(1))
        self.settlement = Settlement(self.runs, unused, name, metrics, CLOCKS)
        replays = Replays(world.pool)
        self.intake = Intake(self.runs, replays, self.settlement, lambda _: None)
        for source in (self.runs, self.leases):
            source.on_ended(self._freed)
            source.on_ended(self.settlement.ended)

    def _freed(self, ended: Ended) -> None:
        row = ended.row
        if row["node_id"] is not None:
            self.holds.release([Hold(RunId(row["run_id"]), row["node_id"], row["dep_id"])])

    async def settle(self) -> None:
        """Settle what this process has heard of, and tell others."""
        while not self.settlement._verdicts.empty():
            await self.settlement._settle_all(self.settlement._verdicts.get_nowait())
        while not self.settlement._elsewhere.empty():
            await self.runs.announce_end(self.settlement._elsewhere.get_nowait())

    async def sweep(self) -> None:
        """Look up the ends that were missed, and settle them."""
        await self.settlement._look_up(list(self.settlement._held))
        await self.settle()

    async def close(self) -> None:
        for part in (self.runs, self.leases, self.writes):
            await part.aclose()


class World:
    """What the machine acts on; every act is done by the product and by the rules."""

    def __init__(self, pool: Pool, valkey: object, feeding: Feeding, counts: Counter[str]) -> None:
        self.pool = pool
        self.valkey = valkey
        self.counts = counts
        self.now_s = 0.0
        self.rules = Rules(lambda: self.now_s, ttl_s=15.0)
        self.queue = Queue(self._verdict_of, counts)
        self.replicas: list[Replica] = []
        self.granted: list[tuple[RunId, int]] = []
        """Every (run, epoch) there ever was, oldest first."""
        self.last_seen: Seen = {}
        """What the tables held when they were last compared with the rules."""
        self._feeding = feeding
        self._names = itertools.count(1)
        self._boots = itertools.count(1)
        self._metrics = Metrics()
        self._history = History(pool)
        self._stories = Stories()
        self._ended: dict[str, object] = {}
        self._epochs: dict[str, int] = {}
        self._intents: dict[tuple[str, int], object] = {}

    async def rows(self, sql: str, **values: object) -> list[dict[str, object]]:
        async with self.pool.connection() as connection:
            cursor = await connection.execute(sql, values)
            return await cursor.fetchall() if cursor.description else []

    async def seen(self) -> Seen:
        [row] = await self.rows(SEEN)
        return {name: row[name] or [] for name in ("runs", "leases", "steps")}

    async def open(self) -> None:
        await self.valkey.flushall()
        for statement in CLEAR:
            await self.rows(statement)
        self.replicas = [self._replica(), self._replica()]
        for node_id in NODES:
            await self.boot(node_id, 0)
        await self.replicas[0].committer.refresh()

    def _replica(self) -> Replica:
        return Replica(f"replica-{next(self._names)}", self, self._metrics)

    # -- what happens ------------------------------------------------------------------------------

    async def deliver(self, number: int, n: int) -> None:
        replica = self.replicas[n]
        message = self.queue.deliver(number, replica.name)
        run_id = run_id_of("ns", "invoices", number, ENQUEUED_MS + number)
        reason = None if message.body == GOOD else "DeserializationError"
        origin = Origin("ns", self._feeding, self.queue, None)
        received = await replica.intake.accept(message, origin)
        assert received is not None
        assert received.run_id == run_id
        is_new = self.rules.receive(run_id, reason)
        assert received.is_new == is_new
        assert (received.verdict is not None) == (not self.rules.runs[run_id].is_alive)
        self.counts["received" if is_new else "joined"] += 1

    async def boot(self, node_id: str, n: int, *, is_silent: bool = True) -> None:
        """Start a node anew; while its earlier boot is still heard of, it is refused."""
        boot_id = f"boot-{next(self._boots)}"
        spec = NodeSpec(node_id=node_id, boot_id=boot_id, slots=SLOTS)
        if is_silent:
            await self.rows(SILENCE, node_id=node_id)
            await self.replicas[n].nodes.register(spec)
            self.rules.register(node_id, boot_id)
            self.counts["left by an earlier boot"] += sum(
                run.lease is not None and run.lease.node_id == node_id
                for run in self.rules.runs.values()
            )
        else:
            assert await heard(self.replicas[n].nodes.register(spec)) is Conflict
            self.counts["boots refused"] += 1

    async def schedule(self, n: int) -> None:
        replica = self.replicas[n]
        await self.rows(NO_BACKOFF)
        snapshot = await replica.reader.read()
        made = plan(replace(snapshot, seed=len(self.granted)))
        result = await replica.committer.commit(made)
        for grant in result.grants:
            assert self.rules.grant(grant.run_id, grant.node_id) == grant.epoch
            assert grant.boot_id == self.rules.boots[grant.node_id]
            self.granted.append((grant.run_id, grant.epoch))
        await replica.committer.flush(snapshot.hold_generation)
        self.counts["granted"] += len(result.grants)
        await self.check()

    async def both(
        self, what: str, product: Awaitable[object], rules: Callable[[Rules], object]
    ) -> None:
        """Have both do it: they refuse alike, and what is refused changes nothing."""
        before = self.last_seen
        expected, got = said(self.rules, rules), await heard(product)
        assert got == expected, f"{what}: the rules say {expected!r}, the product {got!r}"
        if isinstance(got, type):
            await self.check()
            assert self.last_seen == before, f"{what} was refused and changed something"
        else:
            await self.check()
        self.counts[f"{what}: {got.__name__ if isinstance(got, type) else 'done'}"] += 1

    async def race(
        self, acts: Sequence[tuple[str, Awaitable[object], Callable[[Rules], object]]]
    ) -> None:
        """Do several things at once: the end must be that of some order of them."""
        results = await asyncio.gather(*(heard(product) for _, product, _ in acts))
        rows = of_rows(await self.seen())
        for order in itertools.permutations(range(len(acts))):
            rules = copy.deepcopy(self.rules)
            expected = {nth: said(rules, acts[nth][2]) for nth in order}
            if [expected[nth] for nth in range(len(acts))] == results and of_rules(rules) == rows:
                self.rules.runs, self.rules.boots = rules.runs, rules.boots
                self.counts["races"] += 1
                self.counts["races with a loser"] += any(isinstance(r, type) for r in results)
                return
        raise AssertionError(f"no order of {[what for what, _, _ in acts]} explains {results}")

    async def expire(self, run_ids: Sequence[str]) -> None:
        """Let the time of leases be over, by Postgres's clock and by the rules'."""
        await self.rows(EXPIRE, ids=[uuid.UUID(run_id) for run_id in run_ids])
        for run_id in run_ids:
            if lease := self.rules.runs[run_id].lease:
                lease.expires_at_s = self.now_s
        await self.check()

    async def age(self, run_id: str, **counters: int) -> None:
        """Give a run a past."""
        await self.rows(AGE, run_id=run_id, **counters)
        for name, count in counters.items():
            setattr(self.rules.runs[run_id], name, count)
        await self.check()

    async def forget_holds(self) -> None:
        """Restart Valkey empty, and have the holds built anew."""
        await self.valkey.flushall()
        await self.replicas[0].committer.refresh()

    async def replace(self, n: int) -> None:
        """Kill a replica: the locks it held run out, another one starts."""
        gone, self.replicas[n] = self.replicas[n], self._replica()
        await gone.close()
        for waiting in self.queue.messages.values():
            if waiting.lock and waiting.lock.startswith(f"{gone.name}/"):
                waiting.lock = None
        self.counts["replicas died"] += 1

    # -- what must hold ----------------------------------------------------------------------------

    async def check(self) -> None:
        seen = self.last_seen = await self.seen()
        rows, rules = of_rows(seen), of_rules(self.rules)
        differ = {key: (rows.get(key), rules.get(key)) for key in {*rows, *rules}}
        differ = {key: both for key, both in differ.items() if both[0] != both[1]}
        assert not differ, f"(tables, rules): {differ}"
        leased = {row["run_id"] for row in seen["runs"] if row["status"] in LEASED}
        assert sorted(row["run_id"] for row in seen["leases"]) == sorted(leased)
        accepted = {n for n, waiting in self.queue.messages.items() if waiting.deliveries}
        assert len(seen["runs"]) == len(accepted), "one message, one run (I2)"
        for row in seen["runs"]:
            self._check_run(row)
        for step in seen["steps"]:
            key = (step["run_id"], step["seq"])
            fixed = (step["intent"], step["effect_key"], step["digest"])
            assert self._intents.setdefault(key, fixed) == fixed, "an intent has changed (I4)"

    async def check_stories(self) -> None:
        """Make sure that the timelines of all runs are whole, and add to what they were."""
        runs = await self.rows("select run_id::text as run_id from runs")
        granted = Counter(run_id for run_id, _ in self.granted)
        self._stories.take(await self._history.whole([row["run_id"] for row in runs]), granted)

    def _check_run(self, row: dict[str, object]) -> None:
        run_id, number = row["run_id"], row["input_ref"]["sequence_number"]
        assert row["effect_key"] == effect_key_of(run_id, number)
        assert row["lease_epoch"] >= self._epochs.get(run_id, 0), "an epoch fell (I3)"
        self._epochs[run_id] = row["lease_epoch"]
        if row["ended_at"] is None:
            assert row["status"] in ("queued", *LEASED)
            assert row["waiting_reason"] or row["status"] in LEASED, "it waits unexplained (I11)"
        else:
            before = self._ended.setdefault(run_id, row)
            changed = {name: (before[name], row[name]) for name in row if row[name] != before[name]}
            assert not changed, f"an ended run has changed: {changed}"

    async def _verdict_of(self, number: int) -> str | None:
        run_id = run_id_of("ns", "invoices", number, ENQUEUED_MS + number)
        [run] = [row for row in (await self.seen())["runs"] if row["run_id"] == run_id]
        return {"completed": "completed", "dead_lettered": run["reason"]}.get(run["status"])


def said(rules: Rules, act: Callable[[Rules], object]) -> object:
    """Return what the rules come to, or the kind of their refusal."""
    try:
        return act(rules)
    except BpaError as error:
        return type(error)


async def heard(product: Awaitable[object]) -> object:
    """Return what the product came to, or the kind of its refusal."""
    try:
        return await product
    except BpaError as error:
        return type(error)
