"""Dead letters: groups by reason, the list of a group, a letter from inside, a replay's result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from bpa.control.replay_plan import Action, LetterId, Outcome, Result
from bpa.control.rest.dead_letter_schemas import DeadLetter, DeadLetterSummary, DeadLetterTotal
from bpa.ui.words import count, harmless, segment

BODY_CHARS_MAX = 262_144
"""Of a body that can be edited on a page; a larger one is edited in a file, with the command."""

_MEANINGS = {
    "DeserializationError": "It is not what it says it is. Mend the sender, or edit it here.",
    "SchemaValidationFailed": "A field that is demanded is missing or wrong. Edit it here.",
    "PayloadTooLarge": "The message is larger than the platform takes.",
    "NonRetryableHttpStatus": "The target refused the result for good. Its detail says why.",
    "RetriesExhausted": "The target or the model failed four times. Replay it once that is well.",
    "AttemptsExhausted": "The agent raised three times. Look at its steps before a replay.",
    "CrashLoop": "Its process died again and again. Look at the runs before a replay.",
    "BudgetExceeded": "It needed more tokens, calls or USD than the deployment allows.",
    "DeadlineExceeded": "It was at work longer than the deployment allows.",
    "PolicyDenied": "A policy forbids it.",
    "OutcomeUnknown": "What was sent may have been applied; ask the target before a replay.",
    "SandboxProtocol": "The agent's process broke the rules of its one socket.",
    "AgentError": "The agent gave an answer that cannot be used.",
    "Cancelled": "Somebody cancelled it.",
    "MaxDeliveryCountExceeded": "The broker gave it up, before the platform could say why.",
    "TTLExpiredException": "It lay in the queue longer than it was meant to live.",
    "HeaderSizeExceeded": "Its headers are larger than the broker takes.",
}
_TONES = {
    Result.REPLAYED: "good", Result.SETTLED: "good", Result.SENT: "wait", Result.BUSY: "wait",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Group:
    """Dead letters of one queue and reason."""

    total: DeadLetterTotal
    number: str
    meaning: str
    path: str
    is_here: bool
    command: str
    share: float
    """Of the largest group, for a bar."""


@dataclass(frozen=True, slots=True)
class Row:
    """A dead letter in the list."""

    letter: DeadLetterSummary
    path: str
    run_path: str


@dataclass(frozen=True, slots=True)
class Letters:
    """The whole page."""

    groups: Sequence[Group]
    rows: Sequence[Row]
    queue: str
    reason: str
    older_path: str
    here_path: str

    @property
    def total(self) -> int:
        """How many there are in all."""
        return sum(group.total.count for group in self.groups)

    @property
    def said(self) -> str:
        """What changed, in a sentence for who listens to the page."""
        noun = "dead letter" if self.total == 1 else "dead letters"
        return f"{self.total} {noun} in {len(self.groups)} groups"


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter from inside."""

    letter: DeadLetter
    meaning: str
    body: str
    """As it can be edited; empty where it cannot."""
    is_editable: bool
    is_clean: bool
    """The body shows as it is: no invisible character was left out."""
    has_effect: bool
    """Its target has, or may have, what its run sent."""
    may_replay: bool
    path: str
    run_path: str
    commands: Sequence[str]

    @property
    def said(self) -> str:
        """What changed, in a sentence for who listens to the page."""
        return f"Dead letter {self.letter.id}: {self.letter.reason}"


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one dead letter, or would."""

    id: str
    result: str
    tone: str
    why: str
    run_path: str
    may_apply: bool
    """Doing it would change something."""
    repeats: bool
    """It would be applied beside what the target has, or may have: somebody has to want that."""


def letters(
    totals: Sequence[DeadLetterTotal],
    rows: Sequence[DeadLetterSummary],
    *,
    queue: str,
    reason: str,
    following: str | None,
) -> Letters:
    """Return what the page shows."""
    most = max((total.count for total in totals), default=1)
    ordered = sorted(totals, key=lambda total: (-total.count, total.queue, total.reason))
    return Letters(
        groups=[_group(total, most, queue, reason) for total in ordered],
        rows=[_row(row) for row in rows],
        queue=queue,
        reason=reason,
        older_path=_path(queue, reason, following) if following else "",
        here_path=_path(queue, reason),
    )


def _group(total: DeadLetterTotal, most: int, queue: str, reason: str) -> Group:
    return Group(
        total=total,
        number=f"{count(total.count)}{'' if total.complete else '+'}",
        meaning=_MEANINGS.get(total.reason, "Another receiver of the queue put it there."),
        path=_path(total.queue, total.reason),
        is_here=(total.queue, total.reason) == (queue, reason),
        command=f"bpa dlq replay --reason {total.reason} --dry-run",
        share=total.count / most,
    )


def _row(letter: DeadLetterSummary) -> Row:
    return Row(
        letter,
        f"/ui/dead-letters/{segment(letter.id)}",
        f"/ui/runs/{segment(letter.run_id)}" if letter.run_status else "",
    )


def letter_page(letter: DeadLetter, body: bytes) -> Letter:
    """Return what a letter's page shows."""
    text = _text_of(body)
    shown = _shown(text) if text is not None else ""
    is_editable = text is not None and letter.undecodable is None and len(text) <= BODY_CHARS_MAX
    return Letter(
        letter=letter,
        meaning=_MEANINGS.get(letter.reason, ""),
        body=shown if is_editable else "",
        is_editable=is_editable,
        is_clean=text is not None and shown == text.replace("\r\n", "\n"),
        has_effect=letter.effects > 0,
        may_replay=letter.replay.action is not Action.REFUSE,
        path=f"/ui/dead-letters/{segment(letter.id)}",
        run_path=f"/ui/runs/{segment(letter.run_id)}" if letter.run_status else "",
        commands=[
            f"bpa dlq show {letter.id}",
            f"bpa dlq replay {letter.id} --dry-run",
            f"bpa dlq replay {letter.id}",
        ],
    )


def edited_body(typed: str, body: bytes) -> bytes | None:
    """Return the bytes that a person made of a body; None where they left it as it was shown.

    A form sends line ends as CR LF whatever it was given, so they are compared, and sent, as LF.
    """
    plain = typed.replace("\r\n", "\n")
    text = _text_of(body)
    if text is not None and plain == _shown(text):
        return None
    return plain.encode()


def _shown(text: str) -> str:
    return harmless(text, BODY_CHARS_MAX)


def _text_of(body: bytes) -> str | None:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def done(outcomes: Sequence[Outcome]) -> list[Done]:
    """Return what became of dead letters, for a table."""
    return [
        Done(
            id=str(outcome.id),
            result=outcome.result.value,
            tone=_TONES.get(outcome.result, "bad"),
            why=outcome.why,
            run_path=f"/ui/runs/{segment(outcome.run_id)}" if outcome.run_id else "",
            may_apply=outcome.result in (Result.REPLAYED, Result.SETTLED, Result.SENT),
            repeats=bool(outcome.planned and outcome.planned.repeats_effect),
        )
        for outcome in outcomes
    ]


def summary(outcomes: Sequence[Outcome]) -> str:
    """Say in a sentence what became of dead letters."""
    counted: dict[str, int] = {}
    for outcome in outcomes:
        counted[outcome.result.value] = counted.get(outcome.result.value, 0) + 1
    return ", ".join(f"{number} {result}" for result, number in counted.items())


def ids_of(rows: Sequence[Mapping[str, Any]]) -> list[LetterId]:
    """Return the ids of rows."""
    return [LetterId(row["queue"], row["sequence_number"]) for row in rows]


def _path(queue: str, reason: str, cursor: str | None = None) -> str:
    given = {"queue": queue, "reason": reason, "cursor": cursor}
    query = urlencode({name: value for name, value in given.items() if value})
    return f"/ui/dead-letters?{query}" if query else "/ui/dead-letters"
