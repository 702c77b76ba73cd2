"""What a run works on: its document, what models were asked and answered, what was sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from bpa.control.disclosure import Show
from bpa.control.rest.content_schemas import Prompt, RunContents, Said, StepContents, laid_out
from bpa.domain.journal import StepKind
from bpa.ui.words import count
from bpa.words import segment

_SAID = {
    ("user", "text"): "the document, as user",
    ("assistant", "text"): "the model said",
    ("tool", "tool_result"): "the tool's result",
}


@dataclass(frozen=True, slots=True)
class Piece:
    """A text with what it is."""

    name: str
    text: str
    """A stranger's, to be made harmless and bounded where it is shown."""


@dataclass(frozen=True, slots=True)
class Part:
    """A step's half: what was asked, or what came of it."""

    title: str
    note: str
    pieces: Sequence[Piece]
    is_open: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """A step."""

    title: str
    icon: str
    parts: Sequence[Part]


@dataclass(frozen=True, slots=True)
class Contents:
    """The whole page."""

    run_id: str
    run_path: str
    is_masked: bool
    document: Part
    steps: Sequence[Shown]
    file_path: str
    command: str

    @property
    def said(self) -> str:
        """What changed, in a sentence for who listens to the page."""
        return f"{len(self.steps)} steps"


def contents_page(found: RunContents) -> Contents:
    """Return what the page shows."""
    document, path = found.document, f"/ui/runs/{segment(found.run_id)}"
    return Contents(
        run_id=found.run_id,
        run_path=path,
        is_masked=found.shown is Show.MASKED,
        document=Part(
            title="Document",
            note=f"read as {document.dialect}; all that a model may see of the message"
            if document
            else "The message could not be read: its dead letter has it as it came.",
            pieces=[Piece("", laid_out(document.text))] if document else [],
            is_open=True,
        ),
        steps=[_step(step) for step in found.steps],
        file_path=f"{path}/contents.json",
        command=f"bpa runs show {found.run_id} --contents",
    )


def _step(step: StepContents) -> Shown:
    if step.kind == StepKind.MODEL:
        name = step.prompt.model if step.prompt else "a model"
        return Shown(f"Step {step.seq}: {name}", "model", list(_model_parts(step)))
    return Shown(f"Step {step.seq}: the target", "send", list(_effect_parts(step)))


def _model_parts(step: StepContents) -> Iterator[Part]:
    if step.prompt is None:
        yield Part("Prompt", "It cannot be derived from what is kept.", [], is_open=False)
    else:
        yield _prompt(step.prompt)
    note = "" if step.answer else "none is recorded"
    yield Part("Answer", note, [_piece(said) for said in step.answer], is_open=True)


def _prompt(prompt: Prompt) -> Part:
    note = (
        "to the byte as it was sent"
        if prompt.is_exact
        else "derived from what is kept, and not to the byte what was sent"
    )
    tools = msgspec.json.encode(prompt.tools).decode()
    pieces = [
        Piece("instructions, as system", prompt.instructions),
        *(_piece(said) for said in prompt.messages),
        Piece(f"tools ({prompt.tool_choice})", laid_out(tools)),
    ]
    most = f"at most {count(prompt.max_tokens)} tokens of answer"
    return Part("Prompt", f"{note}; {most}", pieces, is_open=False)


def _piece(said: Said) -> Piece:
    if said.kind == "tool_call":
        name = f"the model calls {said.name}"
    else:
        name = _SAID.get((said.role, said.kind), f"{said.role}: {said.kind}".replace("_", " "))
    return Piece(name, laid_out(said.text))


def _effect_parts(step: StepContents) -> Iterator[Part]:
    yield _text("Payload", step.payload, "these bytes, under one key, on every try")
    yield _text("Result", step.result, "")


def _text(title: str, text: str | None, note: str) -> Part:
    if text is None:
        return Part(title, "none is recorded", [], is_open=True)
    return Part(title, note, [Piece("", laid_out(text))], is_open=True)
