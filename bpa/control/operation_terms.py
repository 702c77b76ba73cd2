"""What is said of operations: their acts, their states, what becomes of an item. Pure.

The words that the command line and the pages share with control stand here, apart from its clients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from bpa.control.causes import Filter
from bpa.control.replay_plan import Outcome
from bpa.control.replay_plan import Result as Replayed
from bpa.control.search import Search
from bpa.domain.runs import RunStatus

ITEMS_AT_MOST = 100_000
"""Of one operation: some 30 MB of rows."""
RATE_AT_MOST = 1_000.0
TRIES_AT_MOST = 16
"""Of an item that cannot be done yet: some six minutes, longer than a broker keeps a lock."""
_PAUSE_AT_MOST_S = 30.0


class Act(StrEnum):
    """What an operation does to each of its items."""

    CANCEL = "cancel"
    """End living runs."""
    RETRY = "retry"
    """Replay the dead letters of runs, end the backoff of those that wait."""
    REPLAY = "replay"
    """Replay dead letters."""

    @property
    def statuses(self) -> frozenset[RunStatus]:
        """The states of runs to which it can be done."""
        if self is Act.CANCEL:
            return frozenset({RunStatus.QUEUED, RunStatus.OFFERED, RunStatus.RUNNING})
        return frozenset({RunStatus.QUEUED, RunStatus.DEAD_LETTERED})


class State(StrEnum):
    """How far an operation is."""

    HELD = "held"
    """Its set is frozen, and nothing is done until somebody starts it."""
    RUNNING = "running"
    STOPPED = "stopped"
    """Somebody stopped it; what was done stays done, the rest is left alone."""
    DONE = "done"
    """Each item has its result."""


class Became(StrEnum):
    """What became of an item."""

    CANCELLED = "cancelled"
    """The run has ended as ``Cancelled``."""
    CANCELLING = "cancelling"
    """The run's node has been asked to end it, and will within ``control.cancel_grace_s``."""
    HURRIED = "hurried"
    """The run waited to be tried again, and waits no more."""
    REPLAYED = "replayed"
    """A new message was sent, and the dead letter is gone."""
    SETTLED = "settled"
    """Nothing had to be sent; the dead letter is gone."""
    SENT = "sent"
    """The new message was sent, and the dead letter could not be removed."""
    REFUSED = "refused"
    """Its state does not allow it."""
    GONE = "gone"
    """There is no such run or dead letter any more."""
    BUSY = "busy"
    """Somebody else had it locked all the while, or it lies too deep."""
    FAILED = "failed"
    """It was tried again and again, and something did not answer."""


DONE = frozenset(
    {Became.CANCELLED, Became.CANCELLING, Became.HURRIED, Became.REPLAYED, Became.SETTLED}
)
"""The results that were wanted; the others say what stood in the way."""
_NOT_YET = frozenset({Replayed.SENT, Replayed.BUSY, Replayed.FAILED})


@dataclass(frozen=True, slots=True)
class Told:
    """What became of one item, or when to try it again."""

    result: Became | None
    """None where it is to be tried again."""
    why: str = ""
    run_id: str | None = None
    again_s: float | None = None
    """Seconds until somebody may try it again."""


def told_of(outcome: Outcome, tries: int) -> Told:
    """Return what a replay's outcome means for an item that was tried so often.

    What is locked, or did not answer, is tried again after 2, 4, 8 ... 30 s, since a replay may be
    repeated at any point: it goes on with the row that it wrote.
    """
    if outcome.result in _NOT_YET and tries < TRIES_AT_MOST:
        return Told(None, outcome.why, outcome.run_id, min(2.0**tries, _PAUSE_AT_MOST_S))
    return Told(Became(outcome.result.value), outcome.why, outcome.run_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which items are meant: by a search, by a filter, or by their ids."""

    said: Mapping[str, Any]
    """In the words of whoever asked."""
    search: Search | None = None
    letters: Filter | None = None
    ids: tuple[str, ...] | None = None
    """Of runs or of dead letters, in their canonical form."""
    limit: int | None = None
    """So many at most, the oldest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """An operation that somebody wants."""

    action: Act
    choice: Choice
    actor: str
    detail: str = ""
    rate_per_s: float | None = None
    expected_count: int | None = None
    """Refuse it where the set is another by now."""
    operation_id: str | None = None
    """So that the request can be repeated."""
    hold: bool = False
    """Freeze the set and wait for somebody to start it."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """The items of one moment."""

    subjects: Sequence[str]
    looked_at_all: bool = True
    """False where dead letters were left that there was no time to look at."""
    known: Mapping[str, str] = field(default_factory=dict)
    """Of all of them: the reason and cause of a group."""
