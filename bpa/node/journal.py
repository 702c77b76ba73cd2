"""What a run has already done, and what of it the next call finds: pure, one per execution.

A new execution asks for the same things in the same order, so each request is looked up by kind
and digest, the n-th equal request finding the n-th recorded answer. What is not found goes live,
unless an effect lies ahead in the journal: an agent that took another way after the target was
told something must not tell it something else (`Diverged`).

Every execution replays, also one that follows an agent's failure: an answer that was recorded is
never paid for again, even if the agent failed over it. A new execution mends what lies outside the
answers (a node, its release, its memory); an agent that fails over an answer fails alike each time.

An empty answer records that the provider refused: nothing was used, and nothing is replayed. A call
whose answer was lost stays in the journal as it is, unknown, and is made again as a new
step: two calls may have been billed. That holds for the tries of one execution as well.
"""

from __future__ import annotations

from collections.abc import Iterable

from bpa.domain.journal import Step, StepKind
from bpa.errors import Reason, RunEnded


class Diverged(RunEnded):
    """The agent took another way than the one that led to a recorded effect."""

    def __init__(self) -> None:
        super().__init__(
            Reason.AGENT_ERROR,
            "the agent diverged after an effect: it went another way than the recorded one, which "
            "led to an effect that may have been sent; look at the run's steps",
        )


class Journal:
    """The steps of one run, and how far this execution has replayed them."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self._steps = {step.seq: step for step in sorted(steps, key=lambda step: step.seq)}
        self._recorded_before = frozenset(self._steps)
        self._ahead = set(self._steps)
        self._replayed: set[int] = set()

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps, those of this execution included."""
        return tuple(self._steps.values())

    @property
    def replayed(self) -> list[int]:
        """The positions of earlier executions' answers that this one has gone on from, in order."""
        return sorted(self._replayed)

    @property
    def next_seq(self) -> int:
        """The position that the next new step takes."""
        return max(self._steps, default=-1) + 1

    @property
    def effects(self) -> list[Step]:
        """The effects whose intents are recorded, answered or not, in order."""
        return [step for step in self._steps.values() if step.kind is StepKind.EFFECT]

    @property
    def has_effect_ahead(self) -> bool:
        """Whether an earlier execution recorded an effect that this one has not come to."""
        return any(self._steps[seq].kind is StepKind.EFFECT for seq in self._ahead)

    def is_inherited(self, step: Step) -> bool:
        """Whether an earlier execution recorded the step's intent."""
        return step.seq in self._recorded_before

    def replay(self, digest: str) -> Step | None:
        """Return the recorded answer to a model request, or None when it has to go live.

        Raises:
            Diverged: It would have to go live, but an effect lies ahead.
        """
        for seq in sorted(self._ahead):
            step = self._steps[seq]
            if step.kind is StepKind.MODEL and step.digest == digest and step.answer:
                self._ahead.discard(seq)
                self._replayed.add(seq)
                return step
        if self.has_effect_ahead:
            raise Diverged
        return None

    def effect(self, digest: str) -> Step | None:
        """Return the recorded effect of these arguments, which this execution has now come to.

        An effect is known by its arguments alone: asked for again, it is the same one.

        Returns:
            None when it would be another one.

        Raises:
            Diverged: It would be another one, but a recorded one lies ahead.
        """
        for step in self.effects:
            if step.digest == digest:
                self._ahead.discard(step.seq)
                if step.answer and self.is_inherited(step):
                    self._replayed.add(step.seq)
                return step
        if self.has_effect_ahead:
            raise Diverged
        return None

    def record(self, step: Step) -> None:
        """Add a step of this execution, or what became of it; it will not be replayed to it."""
        self._steps[step.seq] = step
        self._ahead.discard(step.seq)
