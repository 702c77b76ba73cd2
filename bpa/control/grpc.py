"""The node link over gRPC: the thin edge between ``NodeLink`` and the services."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import grpclib
import msgspec
import structlog
from grpclib.const import Cardinality, Handler, Status
from grpclib.protocol import H2Protocol
from grpclib.server import Server, Stream

from bpa.control.leases import Leases
from bpa.control.nodes import Nodes
from bpa.control.offers import Offers
from bpa.control.runs import Runs
from bpa.domain.executions import LeaseOffer, Outcome
from bpa.domain.journal import Step
from bpa.domain.runs import NodeId, RunId
from bpa.domain.specs import NodeSpec
from bpa.errors import BpaError, InvalidRequest, StaleLease
from bpa.grpc_transport import KEEPALIVE_S, guarded, keepalive
from bpa.message_cap import capped
from bpa.protos.bpa.v1 import (
    Acknowledge,
    HeartbeatReply,
    HeartbeatRequest,
    Held,
    Lease,
    NodeLinkBase,
    Progress,
    PullRequest,
    Refuse,
    RegisterReply,
    RegisterRequest,
    ReportReply,
    ReportRequest,
)
from bpa.telemetry.metrics import Metrics

_log = structlog.stdlib.get_logger(__name__)
REPORTS_IN_FLIGHT = 256
"""Reports of one stream that are worked on at once; the next waits, and so does its node."""


class LinkServer(Server):
    """A gRPC server that notices peers which are gone without a word.

    Args:
        services: What it serves.
        keepalive_s: It pings each peer so often, and gives it as long to answer.
    """

    def __init__(self, services: Collection[Any], *, keepalive_s: float = KEEPALIVE_S) -> None:
        super().__init__(services, config=keepalive(keepalive_s))
        self._unacknowledged_s = 2 * keepalive_s

    def _protocol_factory(self) -> H2Protocol:
        return guarded(super()._protocol_factory(), self._unacknowledged_s)


class NodeLink(NodeLinkBase):
    """Serves nodes.

    Args:
        nodes: Registrations.
        leases: Acknowledgements and renewals.
        offers: What goes down a node's stream.
        runs: Steps and outcomes.
        metrics: Counts fenced reports.
        heartbeat_every_s: What nodes are told to keep to.
        woken: Called when a node registered: there may be a place now.
        clock: Tells our time, seconds since the epoch; 0 while it is wrong.
    """

    def __init__(
        self,
        nodes: Nodes,
        leases: Leases,
        offers: Offers,
        runs: Runs,
        metrics: Metrics,
        heartbeat_every_s: float,
        woken: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._nodes = nodes
        self._leases = leases
        self._offers = offers
        self._runs = runs
        self._metrics = metrics
        self._heartbeat_every_s = heartbeat_every_s
        self._woken = woken
        self._clock = clock

    def __mapping__(self) -> dict[str, Handler]:
        """Serve the two streams ourselves: a generator across tasks cannot be closed safely."""
        mapping: dict[str, Handler] = super().__mapping__()
        mapping["/bpa.v1.NodeLink/Pull"] = Handler(
            self._pull, Cardinality.UNARY_STREAM, PullRequest, Lease
        )
        mapping["/bpa.v1.NodeLink/Report"] = Handler(
            self._report, Cardinality.STREAM_STREAM, ReportRequest, ReportReply
        )
        return {path: _capped(handler) for path, handler in mapping.items()}

    async def register(self, message: RegisterRequest) -> RegisterReply:
        """Announce a node."""
        with _translated():
            registration = await self._nodes.register(_decode(message.node, NodeSpec))
        self._woken()
        return RegisterReply(
            heartbeat_every_s=self._heartbeat_every_s,
            lease_ttl_s=self._leases.ttl_s,
            cordoned=registration.cordoned,
            draining=registration.draining,
            now_s=self._clock(),
        )

    async def heartbeat(self, message: HeartbeatRequest) -> HeartbeatReply:
        """Renew what a node holds."""
        held = [(RunId(one.run_id), one.epoch) for one in message.held]
        with _translated():
            renewal = await self._leases.renew(
                NodeId(message.node_id), message.boot_id, held, closing=message.draining
            )
        if not renewal.known:
            raise grpclib.GRPCError(Status.NOT_FOUND, "this node is not registered; register")
        return HeartbeatReply(
            renewed=[Held(run_id=run_id, epoch=epoch) for run_id, epoch in renewal.renewed],
            lost=[Held(run_id=run_id, epoch=epoch) for run_id, epoch in renewal.lost],
            cancel=list(renewal.cancel),
            cordoned=renewal.cordoned,
            draining=renewal.draining,
            hand_back=renewal.hand_back,
            now_s=self._clock(),
        )

    async def _pull(self, stream: Stream[PullRequest, Lease]) -> None:
        request = await stream.recv_message()
        if request is None:
            return
        offers = self._offers.stream(NodeId(request.node_id), request.boot_id)
        with _translated():
            # a stream that breaks while it is sent on must take no more offers
            async with aclosing(offers):
                async for offer in offers:
                    await stream.send_message(_lease(offer))

    async def _report(self, stream: Stream[ReportRequest, ReportReply]) -> None:
        replies: asyncio.Queue[ReportReply] = asyncio.Queue()
        room = asyncio.Semaphore(REPORTS_IN_FLIGHT)
        async with asyncio.TaskGroup() as tasks:
            writer = tasks.create_task(_write(stream, replies))
            async with asyncio.TaskGroup() as reports:
                async for request in stream:
                    await room.acquire()
                    task = reports.create_task(self._answer(request, replies))
                    task.add_done_callback(lambda _: room.release())
            await replies.join()
            writer.cancel()

    async def _answer(self, request: ReportRequest, replies: asyncio.Queue[ReportReply]) -> None:
        try:
            await self._apply(request)
            reply = ReportReply(id=request.id)
        except BpaError as error:
            if isinstance(error, StaleLease):
                self._metrics.leases_fenced.inc()
            reply = ReportReply(id=request.id, error_code=error.code, error=str(error))
        except Exception:  # noqa: BLE001 - it is not swallowed: logged, and told to the node
            # A fault of ours with this one report must not take the stream of all others with it:
            # the node would send it again on each new one.
            trace_id = await self._trace_id(request.run_id)
            _log.exception(
                "report_failed", run_id=request.run_id, trace_id=trace_id, epoch=request.epoch
            )
            told = "this is a fault of control; its log says more"
            reply = ReportReply(id=request.id, error_code=BpaError.code, error=told)
        replies.put_nowait(reply)

    async def _trace_id(self, told: str) -> str:
        """Return a run's trace for a line of the log; empty where it cannot be known."""
        try:
            return await self._runs.trace_id(RunId(str(uuid.UUID(told))))
        except (ValueError, BpaError):
            return ""

    def _apply(self, request: ReportRequest) -> Awaitable[None]:
        run_id, epoch = RunId(request.run_id), request.epoch
        if isinstance(request.acknowledge, Acknowledge):
            return self._leases.acknowledge(run_id, epoch)
        if request.step is not None:
            return self._runs.record_step(run_id, epoch, _decode(request.step, Step))
        if request.outcome is not None:
            return self._runs.finish(run_id, epoch, _decode(request.outcome, Outcome))
        if isinstance(request.refuse, Refuse):
            return self._leases.refuse(run_id, epoch, request.refuse.why)
        if isinstance(request.progress, Progress):
            return self._runs.progress(run_id, epoch, request.progress.stage)
        raise InvalidRequest("a report says what it reports; update the node")


async def _write(
    stream: Stream[ReportRequest, ReportReply], replies: asyncio.Queue[ReportReply]
) -> None:
    while True:
        await stream.send_message(await replies.get())
        replies.task_done()


def _capped(handler: Handler) -> Handler:
    """Have a method refuse messages over the cap before it reads them."""

    async def serve(stream: Stream[Any, Any]) -> None:
        http2: Any = stream._stream  # noqa: SLF001 - grpclib has no hook for it
        http2.recv_data = capped(http2.recv_data)
        await handler.func(stream)

    return handler._replace(func=serve)


def _lease(offer: LeaseOffer) -> Lease:
    return Lease(
        run_spec=msgspec.json.encode(offer.run),
        deadline_s=offer.deadline_s,
        epoch=offer.epoch,
        ttl_s=offer.ttl_s,
        traceparent=offer.traceparent,
        tracestate=offer.tracestate,
    )


def _decode(raw: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"this is no {kind.__name__}: {error}") from error


@contextmanager
def _translated() -> Iterator[None]:
    """Turn our errors into gRPC statuses, by their attributes alone."""
    try:
        yield
    except BpaError as error:
        raise grpclib.GRPCError(Status[error.grpc_status], str(error)) from error
