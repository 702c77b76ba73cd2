"""What a replay of a dead letter comes to, given what is known of its run. Pure.

The words that the command line shares with control stand here, apart from their client libraries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bpa.connectors import Message
from bpa.domain.runs import RunId, RunStatus
from bpa.errors import NotFound, Reason

IDS_AT_MOST = 100
"""Dead letters of one request: their bodies are in memory, and its answer waits for all of them."""
_OF_THE_BODY = (
    Reason.DESERIALIZATION_ERROR,
    Reason.SCHEMA_VALIDATION_FAILED,
    Reason.PAYLOAD_TOO_LARGE,
)
"""Found in the body alone, before any model was asked."""
_DIGITS_MOST = 19
_NUMBERS_END = 2**63 - 1  # a broker counts in signed 64 bits, and a list goes on one behind


@dataclass(frozen=True, slots=True)
class LetterId:
    """A dead letter by its queue and its sequence number there, which it keeps for life."""

    queue: str
    sequence_number: int

    def __str__(self) -> str:
        """Write it as ``queue:number``; a slash in the name becomes ``~``, as Azure has it."""
        return f"{self.queue.replace('/', '~')}:{self.sequence_number}"

    @classmethod
    def read(cls, text: str) -> LetterId:
        """Read what ``str`` wrote.

        Raises:
            NotFound: It is none.
        """
        queue, _, number = text.rpartition(":")
        is_number = number.isascii() and number.isdigit() and len(number) <= _DIGITS_MOST
        if not queue or not is_number or int(number) >= _NUMBERS_END:
            raise NotFound(f"there is no dead letter {text[:300]!r}: an id reads queue:number")
        return cls(queue.replace("~", "/"), int(number))


@dataclass(frozen=True, slots=True)
class Identity:
    """Which run a message belongs to, and how its effects are named."""

    run_id: RunId
    effect_key: str
    inherits_from: RunId | None = None
    """The run whose journal it goes on from: a replay whose body was not edited (I4)."""


class Action(StrEnum):
    """What is to be done with a dead letter."""

    REPLAY = "replay"
    """Send a new message for a new run, then complete the dead letter."""
    CONTINUE = "continue"
    """Send the message of a replay that was begun and perhaps not sent, then complete."""
    SETTLE = "settle"
    """Complete the dead letter: what a replay would do is done."""
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Edit:
    """Another body for a dead letter."""

    body: bytes
    content_type: str | None = None
    """None keeps the dead letter's."""
    may_repeat_effect: bool = False
    """Whether it may be posted although the old run's effect is, or may be, at the target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What a replay of one dead letter comes to."""

    action: Action
    why: str
    """For people: why this, and where it is refused, what to do."""
    replayed_run_id: RunId
    original_run_id: RunId
    replay_number: int
    """Of the replay, 1 for the first of its original; 0 where there is none."""
    edited: bool
    body_sha256: bytes
    effect_key: str | None
    """The inherited key; an edited body gets its own, which its message's number will give."""
    inherits: int
    """Recorded answers and effects that the new run goes on from."""
    effects_applied: int
    """How many of them the target has confirmed: they are not sent again."""
    run_id: RunId | None = None
    """The replay's run, where it has been chosen already."""
    repeats_effect: bool = False
    """Whether another body would be posted beside what was, or may have been, applied."""


class Result(StrEnum):
    """What became of one dead letter."""

    REPLAYED = "replayed"
    """A new message was sent and the dead letter is gone."""
    SETTLED = "settled"
    """Nothing had to be sent; the dead letter is gone."""
    SENT = "sent"
    """The new message was sent, and the dead letter is still there: repeat to remove it."""
    REFUSED = "refused"
    """Its state does not allow it."""
    GONE = "gone"
    """There is no such dead letter."""
    BUSY = "busy"
    """It could not be locked: somebody else has it, it lies too deep, or the time was over."""
    FAILED = "failed"
    """A dependency did not answer, or the message cannot be sent; repeat it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one dead letter, or would."""

    id: LetterId
    result: Result
    why: str
    planned: Planned | None = None
    run_id: RunId | None = None
    """The run of the new message."""


def plan(
    message: Message, identity: Identity, known: Mapping[str, Any], edit: Edit | None
) -> Planned:
    """Return what to do with a dead letter.

    Args:
        message: The dead letter.
        identity: Whose it is.
        known: What the query ``known`` tells of that run.
        edit: Another body, if the operator gave one. The same bytes are no edit.
    """
    old, new = (
        hashlib.sha256(body).digest()
        for body in (message.body, message.body if edit is None else edit.body)
    )
    edited = edit is not None and (new != old or message.undecodable is not None)
    action, why = _decided(known, new, edited=edited)
    begun = known["next_run_id"] is not None
    inherited_key = known["effect_key"] or known["source_key"] or identity.effect_key
    repeats = edited and action is Action.REPLAY and _may_be_applied(known)
    if edit is not None and repeats:
        action, why = _repeating(known, inherited_key, may_repeat_effect=edit.may_repeat_effect)
    return Planned(
        action=action,
        why=why,
        replayed_run_id=identity.run_id,
        original_run_id=RunId(known["original_run_id"] or identity.run_id),
        replay_number=known["next_number"] if begun else (known["replay_number"] or 0) + 1,
        edited=edited,
        body_sha256=new,
        effect_key=None if edited else inherited_key,
        inherits=0 if edited else known["inheritable"],
        effects_applied=known["effects_applied"],
        run_id=RunId(known["next_run_id"]) if begun else None,
        repeats_effect=repeats,
    )


def _may_be_applied(known: Mapping[str, Any]) -> bool:
    """Tell whether the target has, or may have, what the old run sent; where it refused, not."""
    was_refused = known["reason"] == Reason.NON_RETRYABLE_HTTP_STATUS
    return known["effects_applied"] > 0 or (known["effects"] > 0 and not was_refused)


def _repeating(
    known: Mapping[str, Any], key: str, *, may_repeat_effect: bool
) -> tuple[Action, str]:
    """Judge another body where the target has, or may have, what the old run sent."""
    is_applied = known["effects_applied"] > 0
    what = "was applied" if is_applied else "may be at the target already"
    if may_repeat_effect:
        return Action.REPLAY, f"edited: a run of its own; what the old run sent {what} under {key}"
    return Action.REFUSE, (
        f"what its run sent {what} under {key}, and another body would be applied beside it; "
        "send it with mayRepeatEffect (--yes) if it shall"
    )


def _same_body(known: Mapping[str, Any]) -> str:
    if known["reason"] in _OF_THE_BODY:
        return "goes on from its run; the same body fails alike unless its deployment was edited"
    return "goes on from its run"


def _decided(known: Mapping[str, Any], body_sha256: bytes, *, edited: bool) -> tuple[Action, str]:
    status = known["status"]
    if status == RunStatus.COMPLETED:
        if edited:
            return Action.REFUSE, "its run has completed; send the other body as a new message"
        return Action.SETTLE, "its run has completed: only the dead letter is left to remove"
    if status not in (None, RunStatus.DEAD_LETTERED):
        return Action.REFUSE, f"its run is still {status}; wait until it has ended, or cancel it"
    if known["next_run_id"] is None:
        return Action.REPLAY, "edited: a run of its own" if edited else _same_body(known)
    was_sent = known["next_sent_at"] or known["next_arrived"]
    if known["next_body_sha256"] != body_sha256 and (edited or not was_sent):
        what, remedy = "half done", "repeat it with that body to finish it"
        if was_sent:
            what, remedy = "done", "leave --edit out to remove the dead letter"
        return Action.REFUSE, (
            f"its replay as run {known['next_run_id']} is {what} with another body; {remedy}"
        )
    if was_sent:
        return Action.SETTLE, "it was sent before: only the dead letter is left to remove"
    return Action.CONTINUE, "goes on with a replay that was begun before"
