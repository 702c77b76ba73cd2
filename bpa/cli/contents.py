"""How ``bpa runs show --contents`` prints what a run works on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.text import Text

from bpa.control.disclosure import Show
from bpa.control.rest.content_schemas import RunContents, Said, StepContents, laid_out
from bpa.documents.characters import visible


def print_contents(console: Console, found: RunContents) -> None:
    """Print all of it, each text under what it is, without what a terminal obeys."""
    if found.shown is Show.MASKED:
        console.print("masked: of prose its length, and fields of contents.masked withheld")
    document = found.document
    _print(console, "document", document.text if document else "(the message could not be read)")
    for step in found.steps:
        for title, text in _texts(step):
            _print(console, f"step {step.seq}, {title}", text)


def _texts(step: StepContents) -> Iterator[tuple[str, str]]:
    if step.prompt is not None:
        exact = "" if step.prompt.is_exact else " (derived, not to the byte what was sent)"
        yield f"instructions to {step.prompt.model}{exact}", step.prompt.instructions
        yield from _conversation("prompt", step.prompt.messages)
    yield from _conversation("answer", step.answer)
    if step.payload is not None:
        yield "payload", step.payload
    if step.result is not None:
        yield "result", step.result


def _conversation(name: str, said: Iterable[Said]) -> Iterator[tuple[str, str]]:
    for one in said:
        yield f"{name}: {one.role} {one.kind.replace('_', ' ')} {one.name}".rstrip(), one.text


def _print(console: Console, title: str, text: str) -> None:
    console.print()
    console.print(Text(visible(title), style="bold"))
    console.print(Text(visible(laid_out(text))), soft_wrap=True)
