"""A small control over real gRPC, whose answers a test decides."""

import asyncio
import contextlib

import msgspec
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server

from bpa.domain.executions import LeaseOffer, Outcome, RunSpec
from bpa.domain.journal import Step
from bpa.domain.specs import AgentSpec, Budgets, HttpOutSpec, ModelProfile, NodeSpec
from bpa.errors import BpaError
from bpa.protos.bpa.v1 import (
    HeartbeatReply,
    Held,
    Lease,
    NodeLinkBase,
    RegisterReply,
    ReportReply,
)

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class ControlServer(NodeLinkBase):
    """Keeps what it is told, and renews what was acknowledged."""

    def __init__(self):
        self.registrations: list[NodeSpec] = []
        self.beats = []
        self.acknowledged = []
        self.refused = []
        self.steps: list[tuple[str, int, Step]] = []
        self.outcomes: list[tuple[str, int, Outcome]] = []
        self.report_ids = []
        self.offers: asyncio.Queue[Lease] = asyncio.Queue()
        self.lost, self.cancel = set(), set()
        self.cordoned = self.draining = self.hand_back = False
        self.renews = True
        self.forgotten = False
        self.failing = 0
        """So many heartbeats are refused as if a store were away."""
        self.terms = RegisterReply(heartbeat_every_s=0.05, lease_ttl_s=5.0)
        self.clock = lambda: 0.0
        """What it tells of its time."""
        self.mute = asyncio.Event()
        """Set: reports are taken in and not answered."""
        self.refuse_registration: GRPCError | None = None
        self.on_report = lambda request: None
        """May raise an error of ours, which becomes the report's answer."""

    async def register(self, message):
        if self.refuse_registration is not None:
            raise self.refuse_registration
        self.registrations.append(msgspec.json.decode(message.node, type=NodeSpec))
        return self.terms

    async def pull(self, message):
        while True:
            yield await self.offers.get()

    async def heartbeat(self, message):
        if self.forgotten:
            self.forgotten = False
            raise GRPCError(Status.NOT_FOUND, "register first")
        if self.failing:
            self.failing -= 1
            raise unavailable()
        self.beats.append(message)
        held = [(h.run_id, h.epoch) for h in message.held]
        return HeartbeatReply(
            renewed=[Held(run_id=r, epoch=e) for r, e in held if self.renews],
            lost=[Held(run_id=r, epoch=e) for r, e in held if r in self.lost],
            cancel=[r for r, _ in held if r in self.cancel],
            cordoned=self.cordoned,
            draining=self.draining,
            hand_back=self.hand_back,
            now_s=self.clock(),
        )

    async def report(self, messages):
        async for request in messages:
            self.report_ids.append(request.id)
            if self.mute.is_set():
                continue
            yield self._answer(request)

    def _answer(self, request):
        try:
            self.on_report(request)
        except BpaError as error:
            return ReportReply(id=request.id, error_code=error.code, error=str(error))
        key = (request.run_id, request.epoch)
        if request.acknowledge is not None:
            self.acknowledged.append(key)
        elif request.refuse is not None:
            self.refused.append((*key, request.refuse.why))
        elif request.step is not None:
            self.steps.append((*key, msgspec.json.decode(request.step, type=Step)))
        elif request.outcome is not None:
            self.outcomes.append((*key, msgspec.json.decode(request.outcome, type=Outcome)))
        return ReportReply(id=request.id)

    def offer(self, lease: LeaseOffer):
        self.offers.put_nowait(
            Lease(
                run_spec=msgspec.json.encode(lease.run),
                deadline_s=lease.deadline_s,
                epoch=lease.epoch,
                ttl_s=lease.ttl_s,
                traceparent=lease.traceparent,
            )
        )


class KillableServer(Server):
    """A server whose connections can be cut, as the end of its process would."""

    def __init__(self, services):
        super().__init__(services)
        self._protocols = []

    def _protocol_factory(self):
        self._protocols.append(super()._protocol_factory())
        return self._protocols[-1]

    async def kill(self):
        for protocol in self._protocols:
            with contextlib.suppress(AttributeError):  # it is closed already
                protocol.connection._transport.abort()
        self.close()
        await self.wait_closed()


@contextlib.asynccontextmanager
async def serving(service, path):
    """Serve on a Unix socket until the block ends; its connections break then."""
    server = KillableServer([service])
    await server.start(path=str(path))
    try:
        yield server
    finally:
        await server.kill()


def unavailable(text="not now"):
    return GRPCError(Status.UNAVAILABLE, text)


def an_offer(run_id="r1", /, *, epoch=1, ttl_s=5.0, deadline_s=30.0, **spec) -> LeaseOffer:
    fields = {
        "run_id": run_id,
        "agent": AgentSpec(
            "invoice-classifier",
            "1.0.0",
            "invoice-classifier",
            "Classify.",
            ModelProfile(model="claude-haiku-4-5"),
        ),
        "deployment_id": "dep",
        "environment": "dev",
        "routes": ["general", "it"],
        "budgets": Budgets(),
        "http_out": HttpOutSpec(),
        "effect_key": f"{run_id}:1",
        "document": b"",
    } | spec
    return LeaseOffer(
        run=RunSpec(**fields),
        epoch=epoch,
        ttl_s=ttl_s,
        deadline_s=deadline_s,
        traceparent=TRACEPARENT,
    )
