"""Dead letters: groups by reason and cause, their list, a letter from inside, a replay's result."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from bpa.control.causes import Filter
from bpa.control.replay_plan import Action, Outcome, Result
from bpa.control.rest.dead_letter_schemas import DeadLetter, DeadLetterGroup, DeadLetterSummary
from bpa.ui.words import count, harmless
from bpa.words import segment

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
    """Dead letters of one queue, reason and cause."""

    group: DeadLetterGroup
    number: str
    meaning: str
    path: str
    sample_path: str
    is_here: bool
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
    chosen: Filter
    heading: str
    """What the list is of."""
    older_path: str
    commands: Sequence[str]

    @property
    def total(self) -> int:
        """How many there are in all."""
        return sum(group.group.count for group in self.groups)

    @property
    def matching(self) -> int:
        """How many of them are those that the list is of, as far as they were counted."""
        chosen = self.chosen
        return sum(
            one.group.count
            for one in self.groups
            if chosen.queue in (None, one.group.queue)
            and chosen.reason in (None, one.group.reason)
            and chosen.group in (None, one.group.id)
        )

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
    groups: Sequence[DeadLetterGroup],
    rows: Sequence[DeadLetterSummary],
    chosen: Filter,
    *,
    following: str | None,
) -> Letters:
    """Return what the page shows."""
    most = max((group.count for group in groups), default=1)
    given = {"reason": chosen.reason, "queue": chosen.queue, "group": chosen.group}
    flags = "".join(f" --{name} {shlex.quote(value)}" for name, value in given.items() if value)
    here = next((group for group in groups if group.id == chosen.group), None)
    heading = (here.cause or here.reason) if here else chosen.reason or "All of them"
    return Letters(
        groups=[_group(group, most, chosen) for group in groups],
        rows=[_row(row) for row in rows],
        chosen=chosen,
        heading=f"{heading} in {chosen.queue}" if chosen.queue else heading,
        older_path=_path(chosen, following) if following else "",
        commands=["bpa dlq groups", f"bpa dlq replay{flags} --dry-run"],
    )


def _group(group: DeadLetterGroup, most: int, chosen: Filter) -> Group:
    return Group(
        group=group,
        number=f"{count(group.count)}{'' if group.complete else '+'}",
        meaning=_MEANINGS.get(group.reason, "Another receiver of the queue put it there."),
        path=_path(Filter(group=group.id)),
        sample_path=f"/ui/dead-letters/{segment(group.sample_id)}",
        is_here=group.id == chosen.group,
        share=group.count / most,
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
            f"bpa dlq show {shlex.quote(letter.id)}",
            f"bpa dlq replay --id {shlex.quote(letter.id)} --dry-run",
            f"bpa dlq replay --id {shlex.quote(letter.id)}",
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


def _path(chosen: Filter, cursor: str | None = None) -> str:
    given = {
        "queue": chosen.queue,
        "reason": chosen.reason,
        "group": chosen.group,
        "cursor": cursor,
    }
    query = urlencode({name: value for name, value in given.items() if value})
    return f"/ui/dead-letters?{query}" if query else "/ui/dead-letters"
