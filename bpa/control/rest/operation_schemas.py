"""What REST says of operations and takes for them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Self

import msgspec

from bpa.control.operation_terms import ITEMS_AT_MOST, RATE_AT_MOST, Act, Became, State
from bpa.control.rest.schemas import Asked, Document, Text, Time
from bpa.control.search import QUERY_CHARS_MAX

NAMED_AT_MOST = 10_000
Count = Annotated[int, msgspec.Meta(ge=0, le=ITEMS_AT_MOST)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=ITEMS_AT_MOST)]
Rate = Annotated[float, msgspec.Meta(gt=0, le=RATE_AT_MOST)]
Detail = Annotated[str, msgspec.Meta(max_length=500)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class RunsChosen(Document, frozen=True, forbid_unknown_fields=True):
    """The runs that a search finds, of those to which it can be done."""

    q: Annotated[str, msgspec.Meta(max_length=QUERY_CHARS_MAX)]
    """As ``GET /v1/runs`` takes it; empty for all."""


class LettersChosen(Document, frozen=True, forbid_unknown_fields=True):
    """The dead letters to which all of this applies; all of them where nothing is given."""

    queue: Text | None = None
    reason: Text | None = None
    group: Text | None = None
    """As ``GET /v1/dead-letters/groups`` names it."""


class OperationAsked(Asked, frozen=True, kw_only=True):
    """What to do, and to what: give one of ``runs``, ``deadLetters`` and ``ids``."""

    action: Act
    """``cancel`` and ``retry`` are done to runs, ``replay`` to dead letters."""
    runs: RunsChosen | None = None
    dead_letters: LettersChosen | None = None
    ids: Annotated[list[Text], msgspec.Meta(min_length=1, max_length=NAMED_AT_MOST)] | None = None
    """Of runs or of dead letters."""
    limit: Limit | None = None
    """So many at most, the oldest."""
    id: uuid.UUID | None = None
    """Of the operation: choose it yourself, and the request can be repeated."""
    detail: Detail = ""
    """Why, for the audit and for what is cancelled."""
    rate_per_s: Rate | None = None
    """Items a second at most; left out, as fast as it goes."""
    expected_count: Count | None = None
    """Refused with 409 where another number is found by now."""
    hold: bool = False
    """Freeze the set, and do nothing until ``:start``; what nobody starts is removed in a day."""


class OperationStart(Asked, frozen=True):
    """Starts an operation that is held; what is left out stays as it was asked for."""

    detail: Detail | None = None
    rate_per_s: Rate | None = None


class OperationChosen(Document, frozen=True, omit_defaults=True):
    """By what an operation's set was chosen."""

    q: str | None = None
    queue: str | None = None
    reason: str | None = None
    group: str | None = None
    cause: str | None = None
    """Of that group."""
    ids: int | None = None
    """How many were named."""
    limit: int | None = None


class Operation(Document, frozen=True):
    """An act on a set that was frozen when it was asked for."""

    id: str
    action: Act
    state: State
    chosen: OperationChosen
    detail: str
    requested_by: str
    rate_per_s: float | None
    looked_at_all: bool
    """False where dead letters were left that there was no time to look at: they are none of it."""
    items: int
    """How many the set has."""
    finished: int
    """Items with a result."""
    succeeded: int
    """Those whose result was wanted."""
    remaining: int
    counts: dict[Became, int]
    """Finished items by result."""
    trouble: str
    """Why nothing goes on, where that is so; it is tried again by itself."""
    created_at: Time
    started_at: Time | None
    ended_at: Time | None
    stopped_by: str | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Build it from its row."""
        chosen = OperationChosen.of(row["chosen"])
        return super().of({**row, "id": row["operation_id"], "chosen": chosen})


class OperationItem(Document, frozen=True):
    """One item of an operation; in a preview, with what would become of it."""

    nth: int
    subject: str
    """A run's id, or a dead letter's."""
    result: Became | None
    """None while it is to be done."""
    why: str
    """Also why it could not be done yet."""
    run_id: str | None
    """The run that came of it."""
    tries: int
    done_at: Time | None


class OperationPreview(Document, frozen=True):
    """What an operation would be about; nothing was written."""

    action: Act
    count: int
    looked_at_all: bool
    sample: list[OperationItem]
    """The first of them."""


class OperationPage(Document, frozen=True):
    """A page of operations, newest first."""

    operations: list[Operation]
    next_cursor: str | None


class OperationItemPage(Document, frozen=True):
    """A page of an operation's items, in their order."""

    items: list[OperationItem]
    next_cursor: str | None
