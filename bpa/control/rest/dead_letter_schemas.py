"""What REST says of dead letters and takes for their replay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

import msgspec

from bpa.control.replay_plan import IDS_AT_MOST, Action, Edit, Outcome, Result
from bpa.control.rest.schemas import Asked, Document, Text, Time
from bpa.errors import InvalidRequest


class DeadLetterSummary(Document, frozen=True):
    """A dead letter in a list."""

    id: str
    """``queue:sequence number``, a slash in the queue's name written as ``~``."""
    queue: str
    sequence_number: int
    message_id: str
    reason: str
    """One of the platform's, or one of the broker's own."""
    description: str
    cause: str
    """The description without what tells one letter from the next: numbers, ids, quoted values."""
    group: str
    """The short name of the letters of the same queue, reason and cause."""
    run_id: str
    run_status: str | None
    """None where the message never became a run."""
    deployment_id: str | None
    enqueued_at: Time
    dead_lettered_at: Time | None
    """None where the broker did it and no run tells."""
    delivery_count: int
    replay_count: int
    """How often the message had been replayed when it was sent; 0 for an original."""
    original_run_id: str
    """The first run of the chain of replays; its own where it is no replay."""
    effects: int
    """Effects that the run intended to send to its target."""
    effects_applied: int
    """Those of them that the target has confirmed: a replay does not send them again."""
    half_replayed_as: str | None
    """The run of a replay that was cut off; repeating the replay goes on with it."""
    bytes: int


class SentEffect(Document, frozen=True):
    """An effect that a run intended to send to its target."""

    seq: int
    effect_key: str
    inherited_from: str | None
    intended_at: Time
    applied_at: Time | None
    """None where the target's answer is not known."""


class Foreseen(Document, frozen=True):
    """What a replay would do."""

    action: Action
    why: str


class DeadLetter(DeadLetterSummary, frozen=True):
    """A dead letter whole."""

    content_type: str
    properties: dict[str, str]
    """Application properties; values whose names suggest a secret are withheld."""
    undecodable: str | None
    """Why the body is not bytes at all."""
    excerpt: str
    """The first visible characters of the body."""
    effect_key: str | None
    """Under which a replay with the same body would send its effect."""
    sent: list[SentEffect]
    replay: Foreseen

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Build it from its row."""
        more = {
            "sent": [SentEffect.of(effect) for effect in row["sent"]],
            "replay": Foreseen.of(row["replay"]),
        }
        return super().of({**row, **more})


class DeadLetterPage(Document, frozen=True):
    """A page of dead letters, queue by queue, oldest first."""

    dead_letters: list[DeadLetterSummary]
    next_cursor: str | None
    """A page may be short or empty and have a next one: few of those looked at matched."""


class DeadLetterTotal(Document, frozen=True):
    """Dead letters of one queue and reason."""

    queue: str
    reason: str
    count: int
    first_enqueued_at: Time
    last_enqueued_at: Time
    complete: bool
    """False where the queue holds more than are counted: these are the oldest of them."""


class DeadLetterGroup(DeadLetterTotal, frozen=True):
    """Dead letters of one queue, reason and cause."""

    id: str
    """Its short name, by which it is listed and replayed; the same tomorrow."""
    cause: str
    """What their descriptions have in common: without numbers, ids, quoted values and ports."""
    sample_id: str
    """Its oldest letter."""


class ReplayAsked(Asked, frozen=True, kw_only=True):
    """Which dead letters to replay, and how."""

    ids: Annotated[list[Text], msgspec.Meta(min_length=1, max_length=IDS_AT_MOST)]
    dry_run: bool = False
    """Change nothing, and say what would be done."""
    body: bytes | None = None
    """Another body for one dead letter, base64: its run then has its own key and journal."""
    content_type: Annotated[str, msgspec.Meta(pattern="^[ -~]{1,255}$")] | None = None
    """Of that body; left out, the dead letter's stays."""
    may_repeat_effect: bool = False
    """Post that body although what the old run sent was applied, or may have been: it goes out
    under a key of its own, so the target may come to have both. Else such a replay is refused."""

    def edit(self) -> Edit | None:
        """Return the other body, if there is one.

        Raises:
            InvalidRequest: There is a content type and no body.
        """
        if self.body is not None:
            return Edit(self.body, self.content_type, self.may_repeat_effect)
        if self.content_type is not None:
            raise InvalidRequest("contentType: it is that of another body; give body as well")
        return None


class Replayed(Document, frozen=True):
    """What became of one dead letter, or with ``dryRun`` would."""

    id: str
    result: Result
    why: str
    run_id: str | None
    """The run of the new message; None where none is chosen yet."""
    replayed_run_id: str | None
    original_run_id: str | None
    replay_number: int | None
    edited: bool
    effect_key: str | None
    """The inherited key; None for an edited body, which gets its own."""
    inherited_steps: int
    """Recorded answers and effects that the new run goes on from."""
    effects_applied: int
    """Those that the target has confirmed, which are not sent again."""
    repeats_effect: bool = False
    """Another body would be posted beside what was, or may have been, applied: ``why`` names its
    key, and the request needs ``mayRepeatEffect``."""

    @classmethod
    def of_outcome(cls, outcome: Outcome) -> Self:
        """Build it from an outcome."""
        planned = outcome.planned
        return cls(
            id=str(outcome.id),
            result=outcome.result,
            why=outcome.why,
            run_id=outcome.run_id,
            replayed_run_id=planned.replayed_run_id if planned else None,
            original_run_id=planned.original_run_id if planned else None,
            replay_number=planned.replay_number if planned else None,
            edited=planned.edited if planned else False,
            effect_key=planned.effect_key if planned else None,
            inherited_steps=planned.inherits if planned else 0,
            effects_applied=planned.effects_applied if planned else 0,
            repeats_effect=planned.repeats_effect if planned else False,
        )


class Replays(Document, frozen=True):
    """What became of dead letters, in the order in which they were named."""

    dry_run: bool
    results: list[Replayed]


class Retried(Document, frozen=True):
    """What retrying a run came to."""

    run_id: str
    replayed: Replayed | None
    """The replay of its dead letter; None for a run that waits: its backoff has ended."""
    waits_for: str | None = None
    """What such a run waits for all the same, as a target that fails."""
