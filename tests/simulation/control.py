"""Control as nodes see it: replicas that share the rules, and a network in between.

A message may come late, twice, in another order or never; so may its answer. A replica may stand
still or die with what it had in hand; what the rules hold is Postgres, and stays.
"""

import asyncio
import contextvars
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from bpa.domain.executions import LeaseOffer, Outcome, RunSpec
from bpa.domain.journal import Step, Usage
from bpa.domain.runs import RunId, RunStatus
from bpa.domain.specs import AgentSpec, Budgets, HttpOutSpec, NodeSpec
from bpa.errors import BpaError, Conflict, NotFound, StaleLease, Unavailable
from bpa.node.link import Beat, Report, Terms
from bpa.protos.bpa.v1 import Acknowledge, Refuse
from tests.simulation.rules import Rules
from tests.simulation.virtual_time import VirtualLoop, elapse

TTL_S = 15.0
HEARTBEAT_S = 5.0
AGENT = AgentSpec(agent_id="a", version="1", name="A", instructions="Do.")
SENT_AGAIN_AFTER_S = 2.0


@dataclass(slots=True)
class Stream:
    """Offers on their way to one boot of one node; None tells that it broke."""

    node_id: str
    boot_id: str
    offers: asyncio.Queue[LeaseOffer | None] = field(default_factory=asyncio.Queue)
    sent: set[tuple[str, int]] = field(default_factory=set)


@dataclass(slots=True)
class KnownNode:
    """What control knows of a node."""

    boot_id: str
    slots: int
    heard_at_s: float
    stream: Stream | None = None
    stream_ended_at_s: float | None = None

    def is_gone(self, now_s: float) -> bool:
        """Whether another boot may take its place."""
        ended_at_s = self.stream_ended_at_s
        is_silent = self.heard_at_s < now_s - 2 * HEARTBEAT_S
        return is_silent or (ended_at_s is not None and ended_at_s >= self.heard_at_s)


@dataclass(slots=True, eq=False)
class Replica:
    """One control replica: it holds streams, and nothing that matters."""

    streams: dict[str, Stream] = field(default_factory=dict)
    is_dead: bool = False
    still_until_s: float = 0.0


class Network:
    """Carries requests to replicas and answers back, as badly as it is told."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, counts: Counter[str]) -> None:
        self.loop = loop
        self.rng = rng
        self.counts = counts
        self.is_bad = True
        self.replicas = [Replica(), Replica()]
        self._context = contextvars.copy_context()

    def later(self, delay_s: float, act: Callable[..., None], *args: object) -> None:
        """Do something that no process has to live for."""
        self.loop.call_later(delay_s, act, *args, context=self._context)

    def delay_s(self) -> float:
        """Draw how long a message travels: mostly milliseconds, at times longer than a lease."""
        kind = self.rng.random() if self.is_bad else 0.0
        if kind < 0.85:
            return self.rng.uniform(0.001, 0.03)
        if kind < 0.96:
            return self.rng.uniform(0.03, 1.5)
        self.counts["messages that took seconds"] += 1
        return self.rng.uniform(1.5, 1.5 * TTL_S)

    def loses(self, what: str, until_s: float) -> bool:
        """Draw whether a message is lost; before ``until_s`` all are."""
        is_lost = self.is_bad and (self.loop.time() < until_s or self.rng.random() < 0.04)
        self.counts[what] += is_lost
        return is_lost

    def send(
        self, link: "Link", act: Callable[[Replica], object], answer: asyncio.Future[object]
    ) -> None:
        """Send a request off; ``answer`` gets the first answer that arrives."""
        replica = self.replicas[link.replica]
        copies = 2 if self.is_bad and self.rng.random() < 0.04 else 1
        self.counts["requests that came twice"] += copies - 1
        for _ in range(copies):
            if not self.loses("requests lost", link.mute_until_s):
                self.later(self.delay_s(), self._arrive, link, replica, act, answer)

    def _arrive(
        self,
        link: "Link",
        replica: Replica,
        act: Callable[[Replica], object],
        answer: asyncio.Future[object],
    ) -> None:
        if replica.is_dead:
            return
        wait_s = replica.still_until_s - self.loop.time()
        if wait_s > 0:
            self.later(wait_s, self._arrive, link, replica, act, answer)
            return
        try:
            outcome = act(replica)
        except BpaError as error:
            self.counts[f"answered {error.code}"] += 1
            outcome = error
        if not self.loses("answers lost", link.deaf_until_s):
            self.later(self.delay_s(), _tell, answer, outcome)


def _tell(answer: asyncio.Future[object], outcome: object) -> None:
    if not answer.done():
        answer.set_result(outcome)


def _read(outcome: object) -> object:
    if isinstance(outcome, BpaError):
        raise outcome
    return outcome


class Control:
    """What the replicas do: the rules, and streams of offers."""

    def __init__(self, rules: Rules, network: Network) -> None:
        self.rules = rules
        self.network = network
        self.nodes: dict[str, KnownNode] = {}
        self.latest: dict[str, int] = {}
        """The epoch of each run's latest grant, kept apart from the rules."""

    def register(self, spec: NodeSpec) -> Terms:
        now_s, known = self.network.loop.time(), self.nodes.get(spec.node_id)
        if known is not None and known.boot_id != spec.boot_id and not known.is_gone(now_s):
            raise Conflict("another process is at work as this node")
        stream = known.stream if known and known.boot_id == spec.boot_id else None
        self.nodes[spec.node_id] = KnownNode(spec.boot_id, spec.slots, now_s, stream)
        self.rules.register(spec.node_id, spec.boot_id)
        return Terms(HEARTBEAT_S, TTL_S)

    def open_stream(self, spec: NodeSpec, replica: Replica) -> Stream:
        known = self.nodes[spec.node_id]
        if known.boot_id != spec.boot_id:
            raise NotFound("this node is not registered")
        stream = known.stream = Stream(spec.node_id, spec.boot_id)
        known.stream_ended_at_s = None
        replica.streams[spec.node_id] = stream
        for run in self.rules.runs.values():
            lease = run.lease
            if lease and lease.node_id == spec.node_id and not lease.acknowledged:
                self.offer(run.run_id)
        if self.network.is_bad:
            lasts_s = self.network.rng.expovariate(1 / 30)
            self.network.later(lasts_s, self.break_stream, replica, stream)
        return stream

    def break_stream(self, replica: Replica, stream: Stream) -> None:
        """Break a stream; a replica that lives notes it."""
        known = self.nodes[stream.node_id]
        if known.stream is stream and known.stream_ended_at_s is None and not replica.is_dead:
            known.stream_ended_at_s = self.network.loop.time()
        if replica.streams.get(stream.node_id) is stream:
            del replica.streams[stream.node_id]
        self.network.later(self.network.delay_s(), stream.offers.put_nowait, None)

    def grant(self, run_id: str, node_id: str) -> None:
        self.latest[run_id] = self.rules.grant(run_id, node_id)
        self.offer(run_id)

    def offer(self, run_id: str) -> None:
        """Send an offer down the stream of its node, if there is one for its boot."""
        run = self.rules.runs[run_id]
        assert run.lease is not None
        for replica in self.network.replicas:
            stream = replica.streams.get(run.lease.node_id)
            if replica.is_dead or stream is None or stream.boot_id != run.lease.boot_id:
                continue
            if (run_id, run.epoch) in stream.sent:
                continue
            stream.sent.add((run_id, run.epoch))
            offer = self._offer(run_id)
            self.network.later(self.network.delay_s(), stream.offers.put_nowait, offer)

    def heartbeat(self, spec: NodeSpec, held: Sequence[tuple[str, int]], replica: Replica) -> Beat:
        renewed = self.rules.renew(spec.node_id, spec.boot_id, held)
        if renewed is None:
            raise NotFound("this node is not registered")
        self.nodes[spec.node_id].heard_at_s = self.network.loop.time()
        cancel = {run_id for run_id, _ in renewed if self.rules.runs[run_id].cancel_asked}
        return Beat(
            renewed=frozenset(renewed),
            lost=frozenset(held) - renewed,
            cancel=frozenset(cancel),
            cordoned=False,
            draining=False,
            hand_back=False,
        )

    def report(self, run_id: str, epoch: int, what: Report) -> None:
        match what:
            case Acknowledge():
                self.rules.acknowledge(run_id, epoch)
            case Refuse():
                self.network.counts["offers refused"] += 1
                self.rules.refuse(run_id, epoch)
            case Step():
                self.rules.record(run_id, epoch, what)
            case Outcome():
                self.rules.finish(run_id, epoch, what)
                assert epoch == self.latest[run_id], "a lapsed node reported an end"

    def _offer(self, run_id: str) -> LeaseOffer:
        run = self.rules.runs[run_id]
        journal = [
            Step(
                seq=seq,
                kind=step.kind,
                digest=step.digest,
                intent=step.intent,
                effect_key=step.effect_key,
                answer=step.answer,
                usage=Usage(),
            )
            for seq, step in run.steps.items()
        ]
        spec = RunSpec(
            run_id=run_id,
            agent=AGENT,
            deployment_id="d",
            environment="e",
            routes=["r"],
            budgets=Budgets(),
            http_out=HttpOutSpec(),
            effect_key=f"{run_id}:1",
            document=b"",
            journal=journal,
        )
        return LeaseOffer(run=spec, epoch=run.epoch, ttl_s=TTL_S, deadline_s=60, traceparent="")

    # -- what replicas do by themselves ------------------------------------------------------------

    async def reap(self, replica: Replica) -> None:
        """Find what is over, and end it a moment later, for as long as the replica lives."""
        while True:
            await self._pause(replica, self.network.rng.uniform(0.5, 1.5))
            for run_id, epoch in self.rules.over():
                if self.network.rng.random() < 0.2:
                    await self._pause(replica, 0.1)
                self.network.counts["leases that lapsed"] += self.rules.lapse(run_id, epoch)
            self.rules.end_cancelled(by_force=self.network.rng.random() < 0.1)

    async def schedule(self, replica: Replica) -> None:
        """Grant what waits to nodes that were heard of and have room."""
        while True:
            await self._pause(replica, self.network.rng.uniform(0.1, 0.5))
            waiting = [r for r in self.rules.runs.values() if r.status is RunStatus.QUEUED]
            for run in waiting:
                rooms = [node_id for node_id in self.nodes if self._has_room(node_id)]
                if rooms and not run.cancel_asked:
                    self.grant(run.run_id, self.network.rng.choice(rooms))

    def _has_room(self, node_id: str) -> bool:
        leases = [run.lease for run in self.rules.runs.values() if run.lease]
        used = sum(lease.node_id == node_id for lease in leases)
        if self.network.is_bad and self.network.rng.random() < 0.05:
            used -= 1  # a mistake of ours: the node is the last judge of its slots
        is_heard = self.network.loop.time() - self.nodes[node_id].heard_at_s < 3 * HEARTBEAT_S
        return is_heard and used < self.nodes[node_id].slots

    async def _pause(self, replica: Replica, pause_s: float) -> None:
        wake_at_s = self.network.loop.time() + pause_s
        await elapse(pause_s)
        await elapse(max(0.0, replica.still_until_s - wake_at_s))


class Link:
    """A node's link with the promises of `bpa.node.link.ControlLink`: it sends until it is told."""

    def __init__(self, spec: NodeSpec, control: Control) -> None:
        self.node = spec
        self.replica = 0
        self.is_dead = False
        self.mute_until_s = 0.0
        """Until then nothing of the node arrives."""
        self.deaf_until_s = 0.0
        """Until then nothing arrives at the node."""
        self._control = control
        self._network = control.network

    def clock_trouble(self) -> str | None:
        return None

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def register(self) -> Terms:
        self.replica = self._network.rng.randrange(len(self._network.replicas))
        return await self._ask(lambda _: self._register(), 10.0)

    def _register(self) -> Terms:
        # its connection is gone, and with it what control was about to do for it
        if self.is_dead:
            raise Unavailable("nobody waits for the answer")
        return self._control.register(self.node)

    async def pull(self) -> AsyncIterator[LeaseOffer]:
        stream = await self._ask(lambda r: self._control.open_stream(self.node, r), 10.0)
        while (offer := await stream.offers.get()) is not None:
            yield offer
        raise Unavailable("the stream of leases broke")

    async def heartbeat(
        self, held: Sequence[tuple[str, int]], *, draining: bool, timeout_s: float
    ) -> Beat:
        return await self._ask(lambda r: self._control.heartbeat(self.node, held, r), timeout_s)

    async def report(
        self,
        run_id: RunId | str,
        epoch: int,
        what: Report,
        *,
        gone: asyncio.Future[None] | None = None,
    ) -> None:
        answer: asyncio.Future[object] = self._network.loop.create_future()
        futures = {answer} if gone is None else {answer, gone}
        while not answer.done():
            if gone is not None and gone.done():
                raise StaleLease("the lease ended before control answered")
            self._network.send(
                self, lambda _: self._control.report(str(run_id), epoch, what), answer
            )
            await asyncio.wait(
                futures, timeout=SENT_AGAIN_AFTER_S, return_when=asyncio.FIRST_COMPLETED
            )
        _read(await answer)

    async def _ask(self, act: Callable[[Replica], object], timeout_s: float) -> object:
        answer: asyncio.Future[object] = self._network.loop.create_future()
        self._network.send(self, act, answer)
        try:
            async with asyncio.timeout(timeout_s):
                return _read(await answer)
        except TimeoutError as error:
            raise Unavailable("control does not answer") from error
