"""What REST says of a run's contents, as far as ``contents.show`` lets it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import msgspec

from bpa.control.disclosure import Show
from bpa.control.rest.schemas import Document


class DocumentContents(Document, frozen=True):
    """What a run was given to read."""

    dialect: str
    text: str
    """All that a model may see of it; structured documents reduced to their business fields."""


class Said(Document, frozen=True):
    """A part of a conversation."""

    role: str
    kind: str
    """``text``, ``reasoning``, ``tool_call``, ``tool_result`` or ``other``."""
    name: str
    """The tool's; empty for text."""
    text: str
    """What was said; of a tool call, its arguments as JSON."""


class Prompt(Document, frozen=True):
    """What a model was asked."""

    is_exact: bool
    """Derived to the byte as it was sent; false where an agent went a way of its own, and where an
    earlier release received the run and its deployment was changed since."""
    model: str
    max_tokens: int
    instructions: str
    tools: list[dict[str, Any]]
    tool_choice: str
    messages: list[Said]


class StepContents(Document, frozen=True):
    """What a step asked and got."""

    seq: int
    kind: str
    prompt: Prompt | None
    """Of a model call; null where it cannot be derived."""
    answer: list[Said]
    """Of a model call; empty until it is known."""
    payload: str | None
    """Of an effect: the body that is sent."""
    result: str | None
    """Of an effect: what came of it; null until it is known."""


class RunContents(Document, frozen=True):
    """A run's contents; whoever reads them is noted in the audit."""

    run_id: str
    shown: Show
    """``masked``: fields, less those of ``contents.masked``, and of prose its length."""
    document: DocumentContents | None
    """Null for a message that could not be read."""
    steps: list[StepContents]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Build it from what the service found."""
        document = row["document"]
        return cls(
            run_id=row["run_id"],
            shown=row["shown"],
            document=DocumentContents.of(document) if document else None,
            steps=[_step(step) for step in row["steps"]],
        )


def _step(row: Mapping[str, Any]) -> StepContents:
    prompt = row["prompt"]
    return StepContents.of(
        {
            **row,
            "prompt": prompt
            and Prompt.of({**prompt, "messages": [Said.of(one) for one in prompt["messages"]]}),
            "answer": [Said.of(one) for one in row["answer"]],
        }
    )


def laid_out(text: str) -> str:
    """Return a text as people read it: JSON on lines of its own."""
    if not text.startswith(("{", "[")):
        return text
    try:
        return msgspec.json.format(text, indent=2)
    except (msgspec.DecodeError, RecursionError):  # no JSON, or cut, or a thousand deep
        return text
