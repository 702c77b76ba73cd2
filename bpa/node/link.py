"""The node's side of the one link to control: gRPC, and nothing else of control.

`ControlLink.run` keeps one Report stream open, which all runs share: each report carries an id and
control answers under it, in any order. When control goes away the stream is opened again, with
backoff, and what had no answer is sent again: every report is idempotent under its run, epoch and
(for steps) position. Messages are capped at `MESSAGE_BYTES_MAX` in both directions.

This module is the adapter: what grpclib raises leaves it as one of ``bpa.errors``.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from structlog.typing import FilteringBoundLogger

from bpa.clocks import SKEW_MAX_S, Clocks, boottime_s, of_round_trip
from bpa.domain.executions import LeaseOffer, Outcome, RunSpec
from bpa.domain.journal import Step
from bpa.domain.runs import RunId
from bpa.domain.specs import NodeSpec
from bpa.errors import (
    BpaError,
    Conflict,
    InvalidRequest,
    NotFound,
    StaleLease,
    Unavailable,
)
from bpa.node.grpc_channel import KEEPALIVE_S, MESSAGE_BYTES_MAX, CappedChannel
from bpa.protos.bpa.v1 import (
    Acknowledge,
    HeartbeatReply,
    HeartbeatRequest,
    Held,
    Lease,
    Progress,
    PullRequest,
    Refuse,
    RegisterReply,
    RegisterRequest,
    ReportReply,
    ReportRequest,
)
from bpa.retry import RetryPolicy, pause_s
from bpa.telemetry.spans import SpanContext

RECONNECT = RetryPolicy(base_s=0.1, cap_s=3.0)
"""Pauses between tries to reach control; the tries themselves are not limited."""

Report = Acknowledge | Refuse | Progress | Step | Outcome

_SERVICE = "/bpa.v1.NodeLink/"
_FRAMING_BYTES = 1024
"""What a report needs around its payload, generously."""
_BY_CODE: dict[str, type[BpaError]] = {
    kind.code: kind for kind in (Unavailable, NotFound, Conflict, StaleLease)
} | {InvalidRequest.code: InvalidRequest}
_BY_STATUS: dict[Status, type[BpaError]] = {
    Status.NOT_FOUND: NotFound,
    Status.FAILED_PRECONDITION: Conflict,
    Status.ALREADY_EXISTS: Conflict,
    Status.INVALID_ARGUMENT: InvalidRequest,
}
_RUN_SPEC = msgspec.json.Decoder(RunSpec)
_JSON = msgspec.json.Encoder()

_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")


@dataclass(frozen=True, slots=True)
class Terms:
    """What control asks of a registered node, in seconds."""

    heartbeat_every_s: float
    lease_ttl_s: float
    cordoned: bool = False
    """An operator keeps new leases from the node, whatever its boot."""
    draining: bool = False
    """An operator wants the node empty."""


@dataclass(frozen=True, slots=True)
class Beat:
    """Control's answer to a heartbeat; leases as (run id, epoch)."""

    renewed: frozenset[tuple[str, int]]
    lost: frozenset[tuple[str, int]]
    cancel: frozenset[str]
    cordoned: bool
    draining: bool
    hand_back: bool
    """The drain's deadline has passed: what is held is to be handed back."""


@dataclass(slots=True)
class _Pending:
    request: ReportRequest
    reply: asyncio.Future[ReportReply]


class ControlLink:
    """One node's link to control; an async context manager around its connection.

    Args:
        address: ``host:port`` of control's node link, or the path of a Unix socket.
        node: What the node says of itself.
        log: Where reconnections are told.
        draw: Draws the jitter of the backoff from [0, 1).
        keepalive_s: How soon a control that is gone without a word is noticed; twice this.
        clocks: Ours, compared with control's in each heartbeat.
    """

    def __init__(
        self,
        *,
        address: str,
        node: NodeSpec,
        log: FilteringBoundLogger,
        draw: Callable[[], float] = random.random,
        keepalive_s: float = KEEPALIVE_S,
        clocks: Clocks | None = None,
    ) -> None:
        self._address = address
        self._clocks = clocks or Clocks(SKEW_MAX_S, time.time, boottime_s)
        self._keepalive_s = keepalive_s
        self._node = node
        self._log = log.bind(control=address)
        self._draw = draw
        self._ids = itertools.count(1)
        self._pending: dict[int, _Pending] = {}
        self._outbox: deque[int] = deque()
        self._has_mail = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._channel = CappedChannel(self._address, keepalive_s=self._keepalive_s)
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._channel.close()
        for pending in self._pending.values():
            if not pending.reply.done():
                pending.reply.set_exception(Unavailable("the link to control was closed"))

    @property
    def node(self) -> NodeSpec:
        """What the node says of itself."""
        return self._node

    def clock_trouble(self) -> str | None:
        """Return what is wrong with our clock, as far as control has told its time."""
        return self._clocks.trouble()

    async def register(self, *, timeout_s: float = 10.0) -> Terms:
        """Announce the node; repeating it with the same boot id changes nothing.

        Raises:
            Conflict: Another live process holds this node id.
            Unavailable: Control does not answer.
        """
        request = RegisterRequest(node=_JSON.encode(self._node))
        sent_s = self._clocks.now_s()
        reply = await self._unary("Register", request, RegisterReply, timeout_s)
        self._compare_clocks(sent_s, reply.now_s)
        return Terms(reply.heartbeat_every_s, reply.lease_ttl_s, reply.cordoned, reply.draining)

    async def heartbeat(
        self, held: Sequence[tuple[str, int]], *, draining: bool, timeout_s: float
    ) -> Beat:
        """Renew ``held`` in one batch.

        Raises:
            NotFound: Control does not know this node or boot; register again.
            Conflict: Likewise.
            Unavailable: Control does not answer.
        """
        request = HeartbeatRequest(
            node_id=self._node.node_id,
            boot_id=self._node.boot_id,
            held=[Held(run_id=run_id, epoch=epoch) for run_id, epoch in held],
            draining=draining,
        )
        sent_s = self._clocks.now_s()
        reply = await self._unary("Heartbeat", request, HeartbeatReply, timeout_s)
        self._compare_clocks(sent_s, reply.now_s)
        return Beat(
            renewed=frozenset((held.run_id, held.epoch) for held in reply.renewed),
            lost=frozenset((held.run_id, held.epoch) for held in reply.lost),
            cancel=frozenset(reply.cancel),
            cordoned=reply.cordoned,
            draining=reply.draining,
            hand_back=reply.hand_back,
        )

    async def pull(self) -> AsyncIterator[LeaseOffer]:
        """Yield offers until the stream ends; one that cannot be read is left to lapse.

        Raises:
            Unavailable: The stream ended or broke.
            NotFound: Control does not know this node or boot; register again.
            Conflict: Likewise.
        """
        request = PullRequest(node_id=self._node.node_id, boot_id=self._node.boot_id)
        with _translated():
            async with self._channel.request(
                _SERVICE + "Pull", Cardinality.UNARY_STREAM, PullRequest, Lease
            ) as stream:
                await stream.send_message(request, end=True)
                async for lease in stream:
                    try:
                        yield _offer(lease)
                    except msgspec.MsgspecError as error:
                        context = SpanContext.parse(lease.traceparent)
                        self._log.error(
                            "lease_unreadable",
                            trace_id=context.trace_id if context else None,
                            span_id=context.span_id if context else None,
                            epoch=lease.epoch,
                            error=str(error),
                            effect="it lapses, and its run is offered again",
                            then="see that node and control are of releases that fit",
                        )
        raise Unavailable("control ended the stream of leases")

    async def report(
        self,
        run_id: RunId | str,
        epoch: int,
        what: Report,
        *,
        gone: asyncio.Future[None] | None = None,
    ) -> None:
        """Send one report and return when control has answered it; `run` has to be running.

        A report under way while the connection breaks is sent again, until ``gone`` is done: the
        lease is no longer ours.

        Raises:
            StaleLease: The lease has moved on; nothing was changed.
            Unavailable: Control could not store it now; report it again.
            InvalidRequest: It is over the cap, or control finds it wrong.
        """
        request = _report_request(next(self._ids), str(run_id), epoch, what)
        pending = _Pending(request, asyncio.get_running_loop().create_future())
        self._pending[request.id] = pending
        self._post(request.id)
        try:
            if gone is not None:
                both: set[asyncio.Future[Any]] = {pending.reply, gone}
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                if not pending.reply.done():
                    raise StaleLease(f"the lease of run {run_id} ended before control answered")
            reply = await pending.reply
        finally:
            self._pending.pop(request.id, None)
        if reply.error_code:
            raise _BY_CODE.get(reply.error_code, BpaError)(reply.error or reply.error_code)

    async def run(self) -> None:
        """Keep the Report stream open until cancelled."""
        failures = 0
        while True:
            answered = itertools.count()
            try:
                with _translated():
                    await self._exchange(answered)
                reason = "control ended the stream of reports"
            except BpaError as error:
                reason = str(error)
            failures = 1 if next(answered) else failures + 1
            self._log.warning("report_stream_lost", error=reason, unanswered=len(self._pending))
            await asyncio.sleep(pause_s(RECONNECT, failures, self._draw()))

    async def _exchange(self, answered: Iterator[int]) -> None:
        """Open one Report stream and use it until it ends."""
        async with self._channel.request(
            _SERVICE + "Report", Cardinality.STREAM_STREAM, ReportRequest, ReportReply
        ) as stream:
            await stream.send_request()
            self._outbox.clear()
            for report_id in self._pending:
                self._post(report_id)
            async with _either() as group:
                group.create_task(self._send_mail(stream.send_message))
                async for reply in stream:
                    next(answered)
                    pending = self._pending.get(reply.id)
                    if pending is not None and not pending.reply.done():
                        pending.reply.set_result(reply)
                raise Unavailable("control ended the stream of reports")

    async def _send_mail(self, send: Callable[[ReportRequest], Any]) -> None:
        while True:
            await self._has_mail.wait()
            self._has_mail.clear()
            while self._outbox:
                pending = self._pending.get(self._outbox.popleft())
                if pending is not None:
                    await send(pending.request)

    def _post(self, report_id: int) -> None:
        self._outbox.append(report_id)
        self._has_mail.set()

    def _compare_clocks(self, sent_s: float, told_s: float) -> None:
        if told_s:
            offset = of_round_trip(sent_s, self._clocks.now_s(), told_s)
            self._clocks.heard("control's", offset)

    async def _unary(
        self, method: str, request: _Request, reply_type: type[_Reply], timeout_s: float
    ) -> _Reply:
        try:
            async with asyncio.timeout(timeout_s):
                with _translated():
                    async with self._channel.request(
                        _SERVICE + method, Cardinality.UNARY_UNARY, type(request), reply_type
                    ) as stream:
                        await stream.send_message(request, end=True)
                        reply = await stream.recv_message()
        except TimeoutError as error:
            raise Unavailable(f"control does not answer {method} in {timeout_s:g} s") from error
        if reply is None:
            raise Unavailable(f"control ended {method} without an answer")
        return reply


@contextlib.asynccontextmanager
async def _either() -> AsyncIterator[asyncio.TaskGroup]:
    """Run a task group whose single error leaves it as itself, not as a group."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Raise the platform's own errors for those of the transport."""
    try:
        yield
    except StreamTerminatedError as error:
        raise Unavailable(f"the connection to control broke: {error}") from error
    except GRPCError as error:
        kind = _BY_STATUS.get(error.status, Unavailable)
        raise kind(error.message or error.status.name) from error
    except (OSError, ProtocolError, AssertionError) as error:
        # grpclib asserts that a stream does not end inside a message.
        raise Unavailable(f"control cannot be reached: {error or type(error).__name__}") from error


def _offer(lease: Lease) -> LeaseOffer:
    return LeaseOffer(
        run=_RUN_SPEC.decode(lease.run_spec),
        epoch=lease.epoch,
        ttl_s=lease.ttl_s,
        deadline_s=lease.deadline_s,
        traceparent=lease.traceparent,
        tracestate=lease.tracestate,
    )


def _report_request(report_id: int, run_id: str, epoch: int, what: Report) -> ReportRequest:
    request = ReportRequest(id=report_id, run_id=run_id, epoch=epoch)
    match what:
        case Acknowledge():
            request.acknowledge = what
        case Refuse():
            request.refuse = what
        case Progress():
            request.progress = what
        case Step():
            request.step = _capped(_JSON.encode(what))
        case Outcome():
            request.outcome = _capped(_JSON.encode(what))
    return request


def _capped(payload: bytes) -> bytes:
    if len(payload) > MESSAGE_BYTES_MAX - _FRAMING_BYTES:
        raise InvalidRequest(
            f"a report of {len(payload)} bytes exceeds the cap of {MESSAGE_BYTES_MAX}"
        )
    return payload
