"""One execution of a run: read, start, converse, end, report.

Every way it can end becomes one `Outcome`, and one place reports it, shielded from cancellation.
What stops it from outside (a lost lease, a cancelled run, a drain, the deadline) is decided in
`Executor._supervise`; what ends it from inside, in `Executor._converse`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from structlog.typing import FilteringBoundLogger

from bpa.documents.values import Document
from bpa.documents.wire import from_wire
from bpa.domain.executions import Outcome, OutcomeKind, RunSpec
from bpa.errors import Conflict, InvalidRequest, Reason, RunEnded, StaleLease, Unavailable
from bpa.node import frames
from bpa.node.breakers import EndedAtTarget, Parked
from bpa.node.broker import Broker
from bpa.node.budget import OverBudget
from bpa.node.frames import SandboxProtocolError
from bpa.node.lease import HeldLease, Stop, trace_id_of
from bpa.node.outlets import Outlets
from bpa.node.sandbox import ExitStatus, Sandbox
from bpa.telemetry.spans import fields_of

_REPORT_GRACE_S = 5.0
_EVENTS_LOGGED_MAX = 50
_DETAIL_CHARS_MAX = 2_000
_IN_DOUBT = "it was cancelled after its effect was sent; whether it was applied is not known"


class Spawner(Protocol):
    """What the executor needs of `bpa.node.zygote.Zygote`."""

    async def spawn(self, task: frames.Task) -> Sandbox:
        """Return a confined child that has its task."""


@dataclass(frozen=True, slots=True)
class ExecutorOptions:
    """How an execution is brought to its end."""

    grace_s: float = 1.0
    """How long a run that was asked to stop may take before it is killed."""


class Executor:
    """Executes leases.

    Args:
        spawner: Where sandboxes come from.
        outlets: What the broker of every run shares.
        log: Bound to the node.
        options: How executions are brought to their end.
    """

    def __init__(
        self,
        *,
        spawner: Spawner,
        outlets: Outlets,
        log: FilteringBoundLogger,
        options: ExecutorOptions | None = None,
    ) -> None:
        self._spawner = spawner
        self._outlets = outlets
        self._log = log
        self._options = options or ExecutorOptions()

    async def execute(self, lease: HeldLease) -> None:
        """Execute the run and report its outcome once.

        Raises:
            StaleLease: The lease was lost before the outcome was stored.
        """
        run = lease.offer.run
        log = self._log.bind(
            **fields_of(run.run_id, trace_id_of(lease.offer), "think", lease.epoch),
            epoch=lease.epoch,
            execution=run.execution,
        )
        outcome = await self._work(lease, log)
        if outcome is None:
            log.warning(
                "execution_abandoned",
                why=_stopped(lease),
                effect="control has another execution go on from its recorded steps",
            )
            return
        log.info(
            "execution_ended",
            kind=outcome.kind,
            reason=outcome.reason,
            detail=outcome.detail,
            worked_s=outcome.worked_s,
            **{f"{stage}_ms": ms for stage, ms in outcome.timings.items()},
        )
        await _shielded(lease, outcome)

    async def _work(self, lease: HeldLease, log: FilteringBoundLogger) -> Outcome | None:
        """Return how the execution ended, with its timings; None when it must not be reported."""
        started_s = time.monotonic()
        run = lease.offer.run
        execution = _Execution(lease, started_s, log)
        outcome = await self._supervise(execution)
        if outcome is None:
            return None
        total_ms = round((time.monotonic() - started_s) * 1000, 3)
        broker = execution.broker
        timings = {**(broker.timings.ms if broker else {}), "total": total_ms}
        return msgspec.structs.replace(
            outcome,
            worked_s=round(_worked_s(outcome, run, timings), 6),
            timings=timings,
            replayed=broker.replayed if broker else [],
            heard=broker.heard if broker else None,
        )

    async def _supervise(self, execution: _Execution) -> Outcome | None:
        """Let the run work until it ends, is stopped, or has used up its time."""
        lease = execution.lease
        async with asyncio.TaskGroup() as group:
            work = group.create_task(_ended(self._run(execution), execution.log))
            await _first(work, lease.stopped, timeout_s=execution.left_s)
            stopped = _stopped(lease)
            if not work.done() and stopped in (None, Stop.CANCELLED):
                if execution.sandbox is not None:
                    execution.sandbox.cancel()
                await _first(work, timeout_s=self._options.grace_s)
            if stopped in (Stop.CANCELLED, Stop.HAND_BACK) and execution.effect_under_way:
                timeout_s = lease.offer.run.http_out.timeout_s
                await _first(work, timeout_s=timeout_s)  # its answer tells what is true
            work.cancel()  # kills the sandbox; does nothing to what has ended
        if work.cancelled():
            return _from_outside(stopped, execution)
        outcome = work.result()
        by_itself = stopped is None and execution.left_s > 0
        if by_itself or _is_final(outcome) or (stopped is None and _is_parked(outcome)):
            return outcome
        return _from_outside(stopped, execution)

    async def _run(self, execution: _Execution) -> Outcome | None:
        lease = execution.lease
        run = lease.offer.run
        document = from_wire(run.document)
        broker = Broker(
            self._outlets,
            lease,
            document=document,
            deadline_s=execution.deadline_s,
            log=execution.log,
        )
        execution.broker = broker
        if (completed := broker.completed) is not None:  # an earlier execution got this far
            return completed
        broker.must_admit()
        if execution.left_s <= 0:
            return _from_outside(None, execution)
        started_s = time.monotonic()
        async with await self._spawner.spawn(_task(run, document, broker)) as sandbox:
            broker.timings.add("sandbox_start", started_s)
            execution.sandbox = sandbox
            return await self._converse(execution, sandbox, broker)

    async def _converse(self, execution: _Execution, sandbox: Sandbox, broker: Broker) -> Outcome:
        """Serve the child's frames until the run has an end."""
        logged = 0
        while True:
            match await sandbox.receive():
                case frames.Call() as call:
                    answer = await broker.serve(call)
                    if (completed := broker.completed) is not None:
                        sandbox.abandon()  # the work is done: nobody waits for a last word
                        return completed
                    await sandbox.send(answer)
                case frames.Log() as entry:
                    logged += 1
                    if logged <= _EVENTS_LOGGED_MAX:
                        execution.log.info(
                            "sandbox_said", level_said=entry.level, said=entry.event[:500]
                        )
                case frames.Done():
                    finished = broker.finish()
                    return finished or _agent_failed("the agent finished without post_invoice")
                case frames.Failed(error=error):
                    return _agent_failed(error)
                case None:
                    return _crashed(await self._end_of(sandbox))
                case frame:
                    raise SandboxProtocolError(f"an unexpected frame: {type(frame).__name__}")

    async def _end_of(self, sandbox: Sandbox) -> ExitStatus:
        """Return how a child that closed its socket ended; one that lives on is killed."""
        try:
            async with asyncio.timeout(self._options.grace_s):
                return await sandbox.wait()
        except TimeoutError:
            return await sandbox.kill()


@dataclass(slots=True)
class _Execution:
    """One execution on its way."""

    lease: HeldLease
    started_s: float
    log: FilteringBoundLogger
    broker: Broker | None = None

    @property
    def effect_under_way(self) -> bool:
        """Whether the target has the run's effect in hand."""
        return self.broker is not None and self.broker.effect_under_way

    sandbox: Sandbox | None = None

    @property
    def deadline_s(self) -> float:
        """The end of the working time, on the monotonic clock."""
        return self.started_s + self.lease.offer.deadline_s

    @property
    def left_s(self) -> float:
        """Seconds of working time that are left, 0 or more."""
        return max(0.0, self.deadline_s - time.monotonic())


async def _ended(
    work: Coroutine[Any, Any, Outcome | None], log: FilteringBoundLogger
) -> Outcome | None:
    """Turn whatever an execution raises into its outcome; None when its lease is lost."""
    try:
        return await work
    except Parked as parked:
        return Outcome(kind=OutcomeKind.PARKED, detail=str(parked), target=parked.seen)
    except RunEnded as ended:
        return _rejected_by(ended)
    except SandboxProtocolError as error:
        return _rejected(Reason.SANDBOX_PROTOCOL, str(error))
    except StaleLease:
        return None
    except Conflict as error:
        # Nothing was sent: the next execution begins with the journal as it is recorded.
        return Outcome(kind=OutcomeKind.CRASHED, detail=f"the journal says otherwise: {error}")
    except InvalidRequest as error:
        return _rejected(Reason.DESERIALIZATION_ERROR, f"the run cannot be read: {error}")
    except Unavailable as error:
        return Outcome(kind=OutcomeKind.NODE_FAILED, detail=f"no sandbox: {error}")
    except Exception as error:
        # A mistake of ours with this one run must not take the others and the node with it.
        log.exception("execution_failed_in_node")
        return Outcome(kind=OutcomeKind.CRASHED, detail=f"the node failed: {type(error).__name__}")


async def _first(*futures: asyncio.Future[Any], timeout_s: float) -> None:
    await asyncio.wait(futures, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)


async def _shielded(lease: HeldLease, outcome: Outcome) -> None:
    """Report an outcome; a cancellation meanwhile waits for it, a bounded time."""
    reporting = asyncio.ensure_future(lease.report(outcome))
    try:
        await asyncio.shield(reporting)
    except asyncio.CancelledError:
        await asyncio.wait({reporting}, timeout=_REPORT_GRACE_S)
        if not reporting.cancel():
            reporting.exception()
        raise


def _worked_s(outcome: Outcome, run: RunSpec, timings: Mapping[str, float]) -> float:
    """Return the seconds that count: not those that a failing target took from a parked run."""
    if outcome.kind is not OutcomeKind.PARKED:
        return timings["total"] / 1000
    if run.admission.probe:
        return 0.0
    return max(0.0, timings["total"] - timings.get("http_out", 0.0)) / 1000


def _stopped(lease: HeldLease) -> Stop | None:
    return lease.stopped.result() if lease.stopped.done() else None


def _is_final(outcome: Outcome | None) -> bool:
    """Tell whether an outcome stands although the run was told to stop as well."""
    return outcome is not None and outcome.kind in (OutcomeKind.COMPLETED, OutcomeKind.REJECTED)


def _is_parked(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.kind is OutcomeKind.PARKED


def _from_outside(stopped: Stop | None, execution: _Execution) -> Outcome | None:
    """Return the outcome of a run that was stopped; without a reason, its time was up."""
    match stopped:
        case Stop.LOST | Stop.EXPIRED:
            return None
        case Stop.CANCELLED:
            doubt = execution.broker is not None and execution.broker.effect_in_doubt
            return _rejected(Reason.CANCELLED, _IN_DOUBT if doubt else "")  # control knows why
        case Stop.HAND_BACK:
            return Outcome(kind=OutcomeKind.HANDED_BACK, detail="the node drains")
    run = execution.lease.offer.run
    return _rejected(
        Reason.DEADLINE_EXCEEDED,
        f"not finished within {run.budgets.max_duration} of working time, over "
        f"{run.execution} execution(s)",
    )


def _rejected(reason: Reason, detail: str) -> Outcome:
    return Outcome(kind=OutcomeKind.REJECTED, reason=reason, detail=_one_line(detail))


def _rejected_by(ended: RunEnded) -> Outcome:
    outcome = _rejected(ended.reason, ended.detail)
    match ended:
        case EndedAtTarget(seen=seen):
            return msgspec.structs.replace(outcome, target=seen)
        case OverBudget(excess=excess):
            return msgspec.structs.replace(outcome, excess=excess)
    return outcome


def _agent_failed(detail: str) -> Outcome:
    return Outcome(kind=OutcomeKind.AGENT_FAILED, detail=_one_line(detail))


def _crashed(status: ExitStatus) -> Outcome:
    detail = (
        f"the sandbox ended without an answer: {status.reason}, after {status.cpu_s:.1f} s of "
        f"processor time, with {status.rss_bytes_max >> 20} MiB at most"
    )
    return Outcome(kind=OutcomeKind.CRASHED, detail=detail)


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:_DETAIL_CHARS_MAX])


def _task(run: RunSpec, document: Document, broker: Broker) -> frames.Task:
    agent = run.agent
    return frames.Task(
        run_id=run.run_id,
        agent=frames.AgentSpec(
            name=agent.name,
            instructions=agent.instructions,
            model=agent.model_profile.model,
            max_output_tokens=agent.model_profile.max_output_tokens,
        ),
        document=document.text,
        one_tool_call=run.max_effects == 1,
        tools=[
            frames.ToolSpec(tool.name, tool.description, frames.ANY_ARGUMENTS)
            for tool in broker.tools
        ],
    )
