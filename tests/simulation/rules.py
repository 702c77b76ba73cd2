"""Control's rules for runs and leases, as values: what the statements in Postgres come to.

A state machine drives these rules and the real services side by side and compares them after
every step; the simulation of the lease protocol then takes them for its control. The limits are
written down here once more, so that a slip in the product's own table is found.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from bpa.domain.executions import Outcome, OutcomeKind
from bpa.domain.journal import Step, StepKind
from bpa.domain.runs import RunStatus
from bpa.errors import Conflict, StaleLease

ALIVE = frozenset({RunStatus.QUEUED, RunStatus.OFFERED, RunStatus.RUNNING})
LEASED = frozenset({RunStatus.OFFERED, RunStatus.RUNNING})
FAILURES_MAX = {"agent_failures": 3, "crashes": 5, "infra_failures": 20}
EXHAUSTED = {
    "agent_failures": "AttemptsExhausted",
    "crashes": "CrashLoop",
    "infra_failures": "CrashLoop",
}
COUNTED = {
    OutcomeKind.AGENT_FAILED: "agent_failures",
    OutcomeKind.CRASHED: "crashes",
    OutcomeKind.NODE_FAILED: "infra_failures",
}


@dataclass(slots=True)
class Lease:
    """One grant, from its offer to its end."""

    node_id: str
    boot_id: str
    epoch: int
    expires_at_s: float
    acknowledged: bool = False


@dataclass(slots=True)
class Recorded:
    """One step of a journal."""

    kind: StepKind
    digest: str
    intent: bytes
    effect_key: str
    answer: bytes | None
    epoch: int


@dataclass(slots=True)
class Run:
    """One run, as its row, its lease and its journal have it."""

    run_id: str
    status: RunStatus = RunStatus.QUEUED
    reason: str | None = None
    epoch: int = 0
    executions: int = 0
    agent_failures: int = 0
    crashes: int = 0
    infra_failures: int = 0
    cancel_asked: bool = False
    lease: Lease | None = None
    steps: dict[int, Recorded] = field(default_factory=dict)

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self.status in ALIVE


class Rules:
    """What control does with each report.

    Args:
        clock: Postgres's clock, seconds.
        ttl_s: How long a lease lasts from its grant, acknowledgement or renewal.
    """

    def __init__(self, clock: Callable[[], float], ttl_s: float) -> None:
        self.ttl_s = ttl_s
        self.runs: dict[str, Run] = {}
        self.boots: dict[str, str] = {}
        self._clock = clock

    def receive(self, run_id: str, reason: str | None = None) -> bool:
        """Record a delivery; say whether its run is new."""
        if run_id in self.runs:
            return False
        status = RunStatus.DEAD_LETTERED if reason else RunStatus.QUEUED
        self.runs[run_id] = Run(run_id, status, reason)
        return True

    def register(self, node_id: str, boot_id: str) -> None:
        """Announce a boot; the leases of earlier ones last as long as any."""
        self.boots[node_id] = boot_id

    def grant(self, run_id: str, node_id: str) -> int:
        """Offer a waiting run to a node; return the epoch."""
        run = self.runs[run_id]
        assert run.status is RunStatus.QUEUED
        assert run.lease is None
        assert not run.cancel_asked
        run.status = RunStatus.OFFERED
        run.epoch += 1
        expires_at_s = self._clock() + self.ttl_s
        run.lease = Lease(node_id, self.boots[node_id], run.epoch, expires_at_s)
        return run.epoch

    def acknowledge(self, run_id: str, epoch: int) -> None:
        """Turn an offer into a lease."""
        run = self.runs[run_id]
        lease = self._living_lease(run, epoch)
        if lease is None:
            raise StaleLease("the offer is over")
        lease.acknowledged = True
        lease.expires_at_s = self._clock() + self.ttl_s
        if run.status is RunStatus.OFFERED:
            run.status = RunStatus.RUNNING
            run.executions += 1

    def refuse(self, run_id: str, epoch: int) -> None:
        """Take an offer back at no cost."""
        run = self.runs[run_id]
        if run.lease is None or run.lease.epoch != epoch or run.lease.acknowledged:
            raise StaleLease("the offer is over")
        self._requeue(run)
        run.epoch += 1

    def renew(
        self, node_id: str, boot_id: str, held: Iterable[tuple[str, int]]
    ) -> set[tuple[str, int]] | None:
        """Renew what is still the node's and return it; None when the boot is not known."""
        if self.boots.get(node_id) != boot_id:
            return None
        renewed = set()
        for run_id, epoch in held:
            lease = self._living_lease(self.runs[run_id], epoch)
            if lease is not None and lease.boot_id == boot_id and lease.acknowledged:
                lease.expires_at_s = self._clock() + self.ttl_s
                renewed.add((run_id, epoch))
        return renewed

    def record(self, run_id: str, epoch: int, step: Step) -> None:
        """Append a step, or add the answer to one."""
        run = self.runs[run_id]
        if not self._is_held(run, epoch):
            raise StaleLease("the lease has moved on")
        effect_key = step.effect_key if step.kind is StepKind.EFFECT else ""
        before = run.steps.get(step.seq)
        if before is None:
            if effect_key and any(one.effect_key == effect_key for one in run.steps.values()):
                raise Conflict("the effect has its step")
            run.steps[step.seq] = Recorded(
                step.kind, step.digest, step.intent, effect_key, step.answer, epoch
            )
            return
        fixed = (before.kind, before.digest, before.intent, before.effect_key)
        if fixed != (step.kind, step.digest, step.intent, effect_key):
            raise Conflict("the step is fixed")
        if before.answer is not None and step.answer not in (None, before.answer):
            raise Conflict("the answer is fixed")
        before.epoch = epoch
        if before.answer is None:
            before.answer = step.answer

    def finish(self, run_id: str, epoch: int, outcome: Outcome) -> None:
        """Write down how an execution ended; the same again changes nothing."""
        run = self.runs[run_id]
        if run.epoch == epoch and run.status not in LEASED:
            return
        if not self._is_held(run, epoch):
            raise StaleLease("the lease has moved on")
        if outcome.effect is not None:
            self._answer(run, outcome.effect)
        if outcome.kind is OutcomeKind.COMPLETED:
            self._end(run, RunStatus.COMPLETED)
        elif outcome.kind is OutcomeKind.REJECTED:
            self._end(run, RunStatus.DEAD_LETTERED, outcome.reason)
        elif outcome.kind is OutcomeKind.HANDED_BACK:
            self._requeue(run)
        else:
            self._count(run, COUNTED[outcome.kind])

    def over(self) -> list[tuple[str, int]]:
        """Return the leases whose time is over."""
        return [
            (run.run_id, run.lease.epoch)
            for run in self.runs.values()
            if run.lease and self._is_over(run.lease)
        ]

    def lapse(self, run_id: str, epoch: int) -> bool:
        """End a lease that is over, through no fault of its run; say whether it was."""
        run = self.runs[run_id]
        if run.lease is None or run.lease.epoch != epoch or not self._is_over(run.lease):
            return False
        self._count(run, "infra_failures")
        run.epoch += 1
        return True

    def reap(self) -> int:
        """End all that is over, and return how many leases that were."""
        return sum([self.lapse(*lease) for lease in self.over()])

    def cancel(self, run_id: str) -> None:
        """Have a run end by an operator's will: one that waits at once."""
        run = self.runs[run_id]
        if not run.is_alive:
            raise Conflict("it has ended")
        run.cancel_asked = True
        if run.status is RunStatus.QUEUED:
            self._cancel(run)

    def end_cancelled(self, *, by_force: bool) -> int:
        """End the runs to cancel that nobody has, ``by_force`` all of them; return how many."""
        due = [
            run
            for run in self.runs.values()
            if run.is_alive and run.cancel_asked and (by_force or run.status is RunStatus.QUEUED)
        ]
        for run in due:
            self._cancel(run)
        return len(due)

    def _cancel(self, run: Run) -> None:
        self._end(run, RunStatus.DEAD_LETTERED, "Cancelled")
        run.epoch += 1

    def _is_over(self, lease: Lease) -> bool:
        return lease.expires_at_s <= self._clock()

    def _living_lease(self, run: Run, epoch: int) -> Lease | None:
        lease = run.lease
        if lease is None or lease.epoch != epoch or lease.expires_at_s <= self._clock():
            return None
        return lease

    def _is_held(self, run: Run, epoch: int) -> bool:
        return run.epoch == epoch and run.status is RunStatus.RUNNING

    def _answer(self, run: Run, effect: Step) -> None:
        step = run.steps.get(effect.seq)
        if step is not None and step.kind is StepKind.EFFECT and step.answer is None:
            step.answer = effect.answer

    def _count(self, run: Run, what: str) -> None:
        failures = getattr(run, what) + 1
        setattr(run, what, failures)
        if failures >= FAILURES_MAX[what]:
            self._end(run, RunStatus.DEAD_LETTERED, EXHAUSTED[what])
        else:
            self._requeue(run)

    def _requeue(self, run: Run) -> None:
        run.status, run.lease = RunStatus.QUEUED, None

    def _end(self, run: Run, status: RunStatus, reason: str | None = None) -> None:
        run.status, run.reason, run.lease = status, reason, None
