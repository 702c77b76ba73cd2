"""What may pass from a sandboxed agent to a model: pure.

A child is not trusted with the request. Of what it asks, only the messages are taken, and of those
only text, tool calls, tool results and reasoning: an image given by its address would have the
provider fetch it, a way out of the sandbox. Model, limits, system prompt and tools are the
deployment's. The framework's invented ids are left behind, so that equal requests are equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn

import msgspec

from bpa.domain.specs import AgentSpec
from bpa.errors import Reason, RunEnded

ToolChoice = Literal["auto", "required", "none"]

_ROLES = frozenset({"user", "assistant", "tool"})
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "text": ("text",),
    "text_reasoning": ("text", "protected_data"),
    "function_call": ("call_id", "name", "arguments"),
    "function_result": ("call_id", "result", "exception"),
}
_MESSAGES_MAX = 64


class Tool(msgspec.Struct, frozen=True):
    """A tool that the model may call; ``parameters`` is a JSON Schema."""

    name: str
    description: str
    parameters: dict[str, Any]


class ModelRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request to a model, complete and without anything invented on the way."""

    model: str
    max_tokens: int
    instructions: str
    tools: tuple[Tool, ...]
    tool_choice: ToolChoice
    messages: list[dict[str, Any]]
    """The framework's messages as plain values; see `compose` for what they may hold."""


class _Options(msgspec.Struct, frozen=True):
    tool_choice: ToolChoice = "auto"


class _Wish(msgspec.Struct, frozen=True):
    messages: list[dict[str, Any]]
    options: _Options = _Options()


def compose(wish: Mapping[str, Any], agent: AgentSpec, tools: Sequence[Tool]) -> ModelRequest:
    """Return the request that a child's ``model`` call may lead to.

    Raises:
        RunEnded: ``SandboxProtocol`` for anything but a conversation in text and tool calls.
    """
    try:
        asked = msgspec.convert(wish, _Wish)
    except msgspec.ValidationError as error:
        raise RunEnded(Reason.SANDBOX_PROTOCOL, f"not a request for a model: {error}") from error
    if not 0 < len(asked.messages) <= _MESSAGES_MAX:
        _refuse(f"a conversation of {len(asked.messages)} messages")
    profile = agent.model_profile
    return ModelRequest(
        model=profile.model,
        max_tokens=profile.max_output_tokens,
        instructions=agent.instructions,
        tools=tuple(tools),
        tool_choice=asked.options.tool_choice,
        messages=[_message(message) for message in asked.messages],
    )


def _message(message: dict[str, Any]) -> dict[str, Any]:
    role, contents = message.get("role"), message.get("contents")
    if not isinstance(role, str) or role not in _ROLES or not isinstance(contents, list):
        _refuse("a message without a role or contents that may be sent")
    return {"role": role, "contents": [_content(content) for content in contents]}


def _content(content: Any) -> dict[str, Any]:
    kind = content.get("type") if isinstance(content, dict) else None
    fields = _FIELDS.get(kind) if isinstance(kind, str) else None
    if fields is None:
        _refuse("a message with contents other than text, tool calls and their results")
    kept = {name: content[name] for name in fields if content.get(name) is not None}
    if not all(isinstance(value, str) for name, value in kept.items() if name != "arguments"):
        _refuse(f"a {kind} whose fields are not text")
    if not isinstance(kept.get("arguments", ""), (str, dict)):
        _refuse("a tool call whose arguments are no object")
    return {"type": kind, **kept}


def _refuse(what: str) -> NoReturn:
    raise RunEnded(Reason.SANDBOX_PROTOCOL, f"the sandbox asked to send {what}")
