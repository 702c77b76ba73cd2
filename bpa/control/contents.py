"""A run's contents as they may be shown: document, prompts, answers, payloads. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from bpa.control.disclosure import Disclosure
from bpa.control.prompts import Asked, Declared, answered, prompts
from bpa.documents.values import Document
from bpa.documents.wire import from_wire
from bpa.domain.journal import StepKind
from bpa.domain.specs import AgentSpec, DeploymentSpec
from bpa.errors import InvalidRequest

Row = Mapping[str, Any]
_KINDS = {
    "text": ("text", "text"),
    "text_reasoning": ("reasoning", "text"),
    "function_call": ("tool_call", "arguments"),
    "function_result": ("tool_result", "result"),
}
"""What a part of a conversation is called, and where the framework has what it says."""


def contents_of(run: Row, steps: Sequence[Row], disclosure: Disclosure) -> dict[str, Any]:
    """Return what may be shown of a run's contents.

    Args:
        run: Its ``document``, its agent's ``spec`` and ``target``, the deployment that
            it was received under.
        steps: Its journal in order, with what each kept.
        disclosure: What must not be shown.
    """
    document = _document(run["document"])
    declared = _declared(run)
    asked = dict(prompts(declared, document, steps)) if document and declared else {}
    return {
        "run_id": run["run_id"],
        "shown": disclosure.show,
        "document": document
        and {"dialect": document.dialect, "text": disclosure.text(document.text)},
        "steps": [_step(step, asked.get(step["seq"]), disclosure) for step in steps],
    }


def _document(stored: bytes | None) -> Document | None:
    """Return a run's document; None for a message that could not be read."""
    try:
        return from_wire(stored) if stored else None
    except InvalidRequest:
        return None


def _declared(run: Row) -> Declared | None:
    try:
        agent = msgspec.convert(run["spec"], AgentSpec)
        target = msgspec.convert(run["target"], DeploymentSpec)
    except msgspec.ValidationError:  # gone, or another release's
        return None
    return Declared(agent, target.routes, target.max_effects)


def _step(step: Row, asked: Asked | None, disclosure: Disclosure) -> dict[str, Any]:
    is_model = step["kind"] == StepKind.MODEL
    answer = step["answer"] or b""
    return {
        "seq": step["seq"],
        "kind": step["kind"],
        "prompt": asked and _prompt(asked, disclosure),
        "answer": _said(answered(answer), disclosure) if is_model else [],
        "payload": None if is_model else _text(step["intent"], disclosure),
        "result": None if is_model else _text(answer, disclosure),
    }


def _prompt(asked: Asked, disclosure: Disclosure) -> dict[str, Any]:
    request = asked.request
    return {
        "is_exact": asked.is_exact,
        "model": request.model,
        "max_tokens": request.max_tokens,
        "instructions": disclosure.redact(request.instructions),
        "tools": msgspec.to_builtins(request.tools),
        "tool_choice": request.tool_choice,
        "messages": _said(request.messages, disclosure),
    }


def _said(messages: Sequence[Row], disclosure: Disclosure) -> list[dict[str, Any]]:
    return [
        _part(str(message.get("role") or ""), content, disclosure)
        for message in messages
        for content in message["contents"]
        if isinstance(content, dict)
    ]


def _part(role: str, content: Row, disclosure: Disclosure) -> dict[str, Any]:
    kind, field = _KINDS.get(str(content.get("type")), ("other", "text"))
    value = content.get(field)
    if not isinstance(value, str | None):
        value = msgspec.json.encode(value).decode()
    return {
        "role": role,
        "kind": kind,
        "name": str(content.get("name") or ""),
        "text": disclosure.text(value or ""),
    }


def _text(stored: bytes | None, disclosure: Disclosure) -> str | None:
    return disclosure.text(stored.decode("utf-8", "replace")) if stored else None
