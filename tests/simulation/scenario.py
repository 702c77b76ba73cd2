"""One scenario: some runs, a few nodes, two replicas and much trouble, all of it out of one seed.

The nodes are the product's own (`NodeRuntime`, `HeldLease`, `Recorder`) on clocks that run too fast
or too slow; what must hold is checked whenever a lease is confirmed, ends, or is made use of.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable

import msgspec
import structlog

from bpa.domain.executions import Outcome, OutcomeKind
from bpa.domain.journal import Step, StepKind
from bpa.domain.specs import NodeSpec
from bpa.errors import Reason, StaleLease
from bpa.node.lease import HeldLease, Stop
from bpa.node.outlets import Recorder
from bpa.node.runtime import NodeRuntime
from tests.simulation.control import TTL_S, Control, Link, Network, Replica
from tests.simulation.rules import LEASED, Rules
from tests.simulation.virtual_time import Process, VirtualLoop, elapse

TROUBLE_S = 90.0
RECOVERY_S = 600.0
RUNS = 5
DRIFT_MOST = 0.04
"""How much faster or slower than Postgres's a node's clock may run: below the margin."""

_log = structlog.wrap_logger(None, processors=[lambda *_: _drop()])


def _drop() -> None:
    raise structlog.DropEvent


class Violation(AssertionError):
    """Something happened that must not."""


class Node:
    """One process of a node, from its boot to its end."""

    def __init__(self, scenario: "Scenario", node_id: str, boot: int) -> None:
        self.scenario = scenario
        self.process = Process()
        self.is_dead = False
        self.spec = NodeSpec(node_id=node_id, boot_id=f"{node_id}-boot-{boot}", slots=2)
        self.link = Link(self.spec, scenario.control)
        rng = scenario.rng
        rate, ahead_s = 1 + rng.uniform(-DRIFT_MOST, DRIFT_MOST), rng.uniform(0, 1000)
        self.suspended_s = 0.0
        clock = scenario.clock_of(self, lambda: ahead_s + rate * scenario.loop.time())
        self.runtime = NodeRuntime(
            link=self.link, executor=self, log=_log, clock=clock, draw=rng.random
        )
        self.task = scenario.loop.create_task(self.runtime.run(), context=self.process.context())

    def believes(self, run_id: str) -> HeldLease | None:
        """Return the lease under which it might start an effect of the run, right now."""
        lease = self.runtime._held.get(run_id)
        if self.is_dead or lease is None or lease.has_outcome or not lease.is_good:
            return None
        return lease

    async def execute(self, lease: HeldLease) -> None:
        """Do what the product's executor does of the protocol."""
        self.scenario.check(lease.run_id)
        self.scenario.check_slots(self)
        work = asyncio.ensure_future(self._work(lease))
        await asyncio.wait({work, lease.stopped}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            outcome = work.result()
        else:
            work.cancel()
            why = lease.stopped.result()
            self.scenario.counts[f"stopped: {why}"] += 1
            outcome = _STOPPED.get(why)
        if outcome is not None:
            await lease.report(outcome)

    async def _work(self, lease: HeldLease) -> Outcome | None:
        rng, recorder = self.scenario.rng, Recorder(lease)
        await elapse(rng.expovariate(1 / 6))
        kind = rng.choice([OutcomeKind.COMPLETED] * 6 + list(_FAILURES))
        if kind in _FAILURES:
            return Outcome(kind=kind)
        try:
            effect = next(iter(recorder.journal.steps), None)
            if effect is None:
                body = f"{lease.run_id} {rng.random()}".encode()
                key = lease.offer.run.effect_key
                effect = Step(seq=0, kind=StepKind.EFFECT, digest="d", intent=body, effect_key=key)
                await recorder.intend(effect)
            for _ in range(rng.randint(1, 3)):
                recorder.must_hold()
                self.scenario.applied(lease, effect)
                await elapse(rng.uniform(0.01, 2))
        except StaleLease:
            self.scenario.counts["effects not started"] += 1
            return None
        answered = msgspec.structs.replace(effect, answer=b"{}")
        return Outcome(kind=OutcomeKind.COMPLETED, effect=answered)


_FAILURES = (OutcomeKind.AGENT_FAILED, OutcomeKind.CRASHED, OutcomeKind.HANDED_BACK)
_STOPPED = {
    Stop.CANCELLED: Outcome(kind=OutcomeKind.REJECTED, reason=Reason.CANCELLED),
    Stop.HAND_BACK: Outcome(kind=OutcomeKind.HANDED_BACK),
}


class WatchedRules(Rules):
    """The rules, with an eye on what nodes believe when a lease ends."""

    watch: Callable[[str, str], None]

    def lapse(self, run_id: str, epoch: int) -> bool:
        has_lapsed = super().lapse(run_id, epoch)
        if has_lapsed:
            self.watch(run_id, "lapsed")
        return has_lapsed


class Scenario:
    """What a seed comes to.

    Args:
        seed: All that is random comes out of it.
        counts: Where faults are counted.
        rules: What control keeps to; a broken one is the positive control.
    """

    def __init__(
        self, seed: int, counts: Counter[str], rules: type[WatchedRules] = WatchedRules
    ) -> None:
        self.seed = seed
        self.counts = counts
        self.rng = random.Random(seed)
        self.loop = VirtualLoop()
        self.rules = rules(self.loop.time, TTL_S)
        self.rules.watch = self.nobody_believes
        self.network = Network(self.loop, self.rng, counts)
        self.control = Control(self.rules, self.network)
        self.nodes: dict[str, Node] = {}
        self.gone: list[Node] = []
        self._violation: Violation | None = None
        self._boots = 0
        self._bodies: dict[str, bytes] = {}

    def play(self) -> None:
        """Let it happen.

        Raises:
            Violation: Something happened that must not; the seed shows it again.
        """
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._play())

    def clock_of(self, node: Node, clock: Callable[[], float]) -> Callable[[], float]:
        """Return the clock of a node's leases; a broken one is the positive control."""
        return clock

    # -- what must hold ----------------------------------------------------------------------------

    def check(self, run_id: str) -> None:
        """No two nodes may start an effect of one run at one moment (I6)."""
        believers = [node for node in self.nodes.values() if node.believes(run_id)]
        if len(believers) > 1:
            names = [node.spec.boot_id for node in believers]
            self._violated(f"{names} both believe that they hold {run_id}")

    def check_slots(self, node: Node) -> None:
        """A node has no more at work than it has slots, whatever it is offered."""
        at_work = sum(not lease.has_outcome for lease in node.runtime._held.values())
        if at_work > node.spec.slots:
            self._violated(f"{node.spec.boot_id} has {at_work} runs at work")

    def nobody_believes(self, run_id: str, why: str) -> None:
        """Nobody may be at work under a lease that control takes away."""
        for node in self.nodes.values():
            if lease := node.believes(run_id):
                self._violated(f"{node.spec.boot_id} believes in {lease.key}, which has {why}")

    def applied(self, lease: HeldLease, effect: Step) -> None:
        """Take an effect at the target."""
        self.counts["effects"] += 1
        self.check(lease.run_id)
        run = self.rules.runs[lease.run_id]
        if run.epoch != lease.epoch and run.reason != "Cancelled":
            self._violated(f"an effect of {lease.key} started after its lease had ended")
        if self._bodies.setdefault(lease.run_id, effect.intent) != effect.intent:
            self._violated(f"{lease.run_id} sent two bodies under one key (I4)")

    # -- what happens ------------------------------------------------------------------------------

    async def _play(self) -> None:
        for number in range(RUNS):
            self.rules.receive(f"run-{number}")
        for n in range(3):
            self._boot(f"node-{n}")
        loops = [
            asyncio.ensure_future(work(replica))
            for replica in self.network.replicas
            for work in (self.control.reap, self.control.schedule)
        ]
        try:
            await self._suffer(loops)
        finally:
            nodes = [*self.nodes.values(), *self.gone]
            for node in nodes:
                self.loop.thaw(node.process)
            tasks = [*loops, *(node.task for node in nodes)]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _suffer(self, loops: list[asyncio.Task[None]]) -> None:
        while self.loop.time() < TROUBLE_S:
            await elapse(self.rng.expovariate(1 / 3))
            self._trouble()
            self._look(loops)
        self._calm()
        while any(run.is_alive for run in self.rules.runs.values()):
            await elapse(5)
            self._look(loops)
            if self.loop.time() > TROUBLE_S + RECOVERY_S:
                alive = [run for run in self.rules.runs.values() if run.is_alive]
                raise Violation(f"runs that never end: {alive}")

    def _look(self, loops: list[asyncio.Task[None]]) -> None:
        """Raise what was found out, or what died of something else."""
        if self._violation is not None:
            raise self._violation
        for task in [*loops, *(node.task for node in self.nodes.values())]:
            if task.done():
                task.result()
                raise Violation("a loop ended by itself")

    def _violated(self, what: str) -> None:
        if self._violation is None:
            self._violation = Violation(f"seed {self.seed}, at {self.loop.time():.3f} s: {what}")
        raise self._violation

    def _boot(self, node_id: str) -> None:
        self._boots += 1
        self.nodes[node_id] = Node(self, node_id, self._boots)

    def _trouble(self) -> None:
        node = self.rng.choice(list(self.nodes.values()))
        how_long_s = self.rng.choice([1.0, 6.0, TTL_S, 3 * TTL_S]) * self.rng.uniform(0.5, 1.2)
        now_s = self.loop.time()
        match self.rng.choice(["suspend", "kill", "mute", "deaf", "still", "die", "cancel", "add"]):
            case "suspend" if not node.process.frozen:
                self.counts["nodes suspended"] += 1
                self.loop.freeze(node.process)
                self.network.later(how_long_s, self._resume, node, how_long_s)
            case "kill":
                self._kill(node)
            case "mute":
                self.counts["partitions"] += 1
                node.link.mute_until_s = now_s + how_long_s
            case "deaf":
                self.counts["partitions"] += 1
                node.link.deaf_until_s = now_s + how_long_s
            case "still":
                self.counts["replicas that stood still"] += 1
                self.rng.choice(self.network.replicas).still_until_s = now_s + how_long_s
            case "die":
                self._replace(self.rng.randrange(len(self.network.replicas)))
            case "cancel" if self.rng.random() < 0.3:
                run = self.rng.choice(list(self.rules.runs.values()))
                if run.is_alive:
                    self.counts["cancelled"] += 1
                    self.rules.cancel(run.run_id)
            case "add":
                self.rules.receive(f"run-{len(self.rules.runs)}")

    def _resume(self, node: Node, suspended_s: float) -> None:
        if not node.is_dead:
            node.suspended_s += suspended_s
            self.loop.thaw(node.process)

    def _kill(self, node: Node) -> None:
        """Kill a node's process; what it has sent is still on its way."""
        self.counts["nodes killed"] += 1
        had_leases = any(
            run.lease and run.lease.boot_id == node.spec.boot_id and run.status in LEASED
            for run in self.rules.runs.values()
        )
        self.counts["nodes killed with leases"] += had_leases
        node.is_dead = node.link.is_dead = True
        self.loop.freeze(node.process)
        self.gone.append(node)
        for replica in self.network.replicas:
            stream = replica.streams.get(node.spec.node_id)
            if stream is not None and stream.boot_id == node.spec.boot_id:
                self.control.break_stream(replica, stream)
        self._boot(node.spec.node_id)

    def _replace(self, nth: int) -> None:
        """Kill a replica with what it has in hand; another one takes its place and its loops.

        The loops go on: what they do between two statements is what any other replica's would.
        """
        self.counts["replicas killed"] += 1
        old = self.network.replicas[nth]
        for stream in list(old.streams.values()):
            self.control.break_stream(old, stream)
        old.is_dead = True
        self.network.replicas[nth] = Replica()

    def _calm(self) -> None:
        """Let trouble end: no more faults, everybody awake."""
        self.network.is_bad = False
        for node in self.nodes.values():
            self.loop.thaw(node.process)
        for replica in self.network.replicas:
            replica.still_until_s = 0.0
