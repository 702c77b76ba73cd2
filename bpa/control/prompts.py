"""What each model call of a run was asked, derived instead of kept. Pure.

A request follows from the agent's version, the document, the deployment's routes and the answers
before it; keeping it as well would keep each document once more per call. A step holds the digest
of its request, so that what is derived is known to be what was sent, or known not to be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import msgspec

from bpa.documents.answers import tool_of
from bpa.documents.values import Document
from bpa.domain.conversation import ModelRequest, ToolChoice, compose
from bpa.domain.journal import StepKind, canonical, digest_of
from bpa.domain.specs import AgentSpec
from bpa.errors import RunEnded

_POSTED = '{"status": "posted"}'
"""What the framework makes of the tool's result."""
_CHOICES: tuple[ToolChoice, ...] = ("required", *get_args(ToolChoice))


@dataclass(frozen=True, slots=True)
class Asked:
    """A model request as it can be derived today."""

    request: ModelRequest
    is_exact: bool
    """Its digest is that of the request that was sent."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What a run works by, beside its document."""

    agent: AgentSpec
    routes: Sequence[str]
    max_effects: int


def prompts(
    declared: Declared, document: Document, steps: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[int, Asked]]:
    """Derive the request of each model step.

    Args:
        declared: What the run works by, as it was when its message was received.
        document: What the run was given.
        steps: Rows of its journal, in order, with ``seq``, ``kind``, ``digest`` and ``answer``.

    Yields:
        A step's position, and what it was asked; nothing more after an answer that no conversation
        goes on from.
    """
    tool = tool_of(document, declared.routes, declared.max_effects)
    said = [_user(document.text)]
    for step in steps:
        if step["kind"] != StepKind.MODEL:
            continue
        try:
            requests = [
                compose(
                    {"messages": said, "options": {"tool_choice": choice}}, declared.agent, [tool]
                )
                for choice in _CHOICES
            ]
        except RunEnded:  # what the model answered is not what an agent goes on from
            return
        exact = [one for one in requests if _digest(one) == step["digest"]]
        yield step["seq"], Asked((exact or requests)[0], bool(exact))
        if step["answer"]:
            said += _went_on(answered(step["answer"]))


def answered(answer: bytes) -> list[dict[str, Any]]:
    """Return the messages of a recorded answer; none where it is of another form."""
    try:
        value = msgspec.json.decode(answer)
    except (msgspec.DecodeError, RecursionError):
        return []
    messages = value.get("messages") if isinstance(value, dict) else None
    return [one for one in messages if _is_message(one)] if isinstance(messages, list) else []


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("contents"), list)


def _digest(request: ModelRequest) -> str:
    return digest_of(StepKind.MODEL, canonical(request))


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "contents": [{"type": "text", "text": text}]}


def _went_on(answer: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what an answer adds to the conversation: itself, and the results of its tool calls."""
    calls = [
        content
        for message in answer
        for content in message["contents"]
        if isinstance(content, dict) and content.get("type") == "function_call"
    ]
    results = [
        {"type": "function_result", "call_id": call.get("call_id"), "result": _POSTED}
        for call in calls
    ]
    return [*answer, *([{"role": "tool", "contents": results}] if results else [])]
