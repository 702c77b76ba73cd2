"""The sandbox's only way out: serves its calls with secrets, budgets and the journal.

A ``model`` call is answered from the journal if it was made before; else its most tokens are
reserved, the intent is recorded, the provider asked, and the answer recorded before the child gets
it (`bpa.node.thinking`). The one tool, ``post_invoice``, is composed here and sent with the bytes
and the key of its first recorded intent (`bpa.node.posting`). Whatever forbids going on is raised
as `RunEnded`.
"""

from __future__ import annotations

from structlog.typing import FilteringBoundLogger

from bpa.documents.values import Document
from bpa.domain.conversation import Tool
from bpa.domain.executions import Outcome, OutcomeKind
from bpa.domain.journal import EffectCall
from bpa.node.frames import Answer, Call
from bpa.node.journal import Diverged
from bpa.node.outlets import Lease, Outlets, Recorder, Timings
from bpa.node.posting import Posting
from bpa.node.thinking import Thinking


class Broker:
    """One execution's way out.

    Args:
        outlets: Shared by all runs of the node.
        lease: Under which everything is done and recorded.
        document: The run's input.
        deadline_s: End of the working time, on the monotonic clock.
        log: Bound to the run.
    """

    def __init__(
        self,
        outlets: Outlets,
        lease: Lease,
        *,
        document: Document,
        deadline_s: float,
        log: FilteringBoundLogger,
    ) -> None:
        run, recorder = lease.offer.run, Recorder(lease)
        self._journal = recorder.journal
        self.timings = Timings()
        self._posting = Posting(
            outlets,
            lease.offer,
            recorder,
            document=document,
            deadline_s=deadline_s,
            timings=self.timings,
            log=log,
        )
        self.tools: tuple[Tool, ...] = (self._posting.tool,)
        self._thinking = Thinking(
            outlets,
            run,
            recorder,
            tools=self.tools,
            timings=self.timings,
            log=log,
        )

    @property
    def replayed(self) -> list[int]:
        """Positions of the recorded answers that this execution has gone on from."""
        return self._journal.replayed

    @property
    def heard(self) -> EffectCall | None:
        """What the target last answered to an effect that it has not taken."""
        return self._posting.heard

    @property
    def completed(self) -> Outcome | None:
        """How the run ended, once every effect that it may have is applied."""
        return self._outcome() if self._posting.is_done else None

    def finish(self) -> Outcome | None:
        """Return how the run ends whose agent has finished; None if nothing was posted.

        Raises:
            Diverged: An earlier execution recorded an effect to which this one never came.
        """
        if self._journal.has_effect_ahead:
            raise Diverged
        return self._outcome()

    def _outcome(self) -> Outcome | None:
        result = self._posting.result
        if result is None:
            return None
        return Outcome(
            kind=OutcomeKind.COMPLETED,
            result=result,
            effect=self._posting.answered,
            target=self._posting.seen,
        )

    @property
    def effect_under_way(self) -> bool:
        """Whether the target has an effect in hand, and its answer may still come."""
        return self._posting.is_sending

    @property
    def effect_in_doubt(self) -> bool:
        """Whether an effect may have been applied although no answer says so."""
        return any(not (e.answer or e.ended_at_ms) for e in self._journal.effects)

    def must_admit(self) -> None:
        """Check that the run's effect could be sent now: else there is no use in thinking.

        Raises:
            Parked: The target fails for everybody.
        """
        self._posting.must_admit()

    async def serve(self, call: Call) -> Answer:
        """Answer one call of the child.

        Raises:
            RunEnded: The run ends here, for the reason given.
            Parked: The execution ends here: the target fails for everybody.
            StaleLease: The lease is no longer ours; nothing more may be done.
        """
        if call.kind == "model":
            return Answer(call.id, ok=True, value=await self._thinking.think(call.request))
        return Answer(call.id, ok=True, value=await self._posting.use(call.request))
