"""What the Messages API accepts: headers, the request's shape, and its errors. Pure.

Two dialects are served: ``x-api-key`` with version 2023-06-01 and ``Authorization: Bearer`` with
2026-10-21; either header goes with either version. Source: the API's reference and the SDKs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bpa.embedded.anthropic.facts import terms

OLD_VERSION = "2023-06-01"
NEW_VERSION = "2026-10-21"
STATUS_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_KNOWN = frozenset(
    terms(
        "cache_control compaction container context_management diagnostics fallback_credit_token "
        "fallbacks inference_geo max_tokens mcp_servers messages metadata model output_config "
        "service_tier speed stop_sequences stream system temperature thinking tool_choice tools "
        "top_k top_p user_profile_id workspace_id"
    )
)
_SAMPLING = ("temperature", "top_p", "top_k")
_TOOL_NAME = re.compile(r"^[a-zA-Z0-9_-]{1,128}$")
_ASSISTANT_ONLY = frozenset({"tool_use", "thinking", "redacted_thinking"})


class ApiError(Exception):
    """The request is answered with an error of the API's shape."""

    def __init__(self, status: int, message: str, kind: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind or STATUS_TYPES.get(
            status, "api_error" if status >= 500 else "invalid_request_error"
        )


@dataclass(frozen=True, slots=True)
class MessagesRequest:
    """A valid request. ``max_tokens`` is 0 where only tokens are to be counted."""

    model: str
    max_tokens: int
    system: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    tool_choice: dict[str, Any]
    stop_sequences: list[str]
    stream: bool

    @property
    def user_text(self) -> str:
        """All text that users wrote, oldest first."""
        return "\n\n".join(
            text
            for message in self.messages
            if message["role"] == "user"
            for text in texts(message["content"])
        )

    @property
    def answers_a_tool_result(self) -> bool:
        """The last message brings a tool's result."""
        content = self.messages[-1]["content"]
        return isinstance(content, list) and any(
            block["type"] == "tool_result" for block in content
        )


def texts(content: str | Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the texts of a message's content, plain-text documents included."""
    if isinstance(content, str):
        return [content]
    found = []
    for block in content:
        if block["type"] == "text":
            found.append(block["text"])
        elif block["type"] == "document":
            source = block.get("source")
            if isinstance(source, dict) and source.get("type") == "text":
                found.append(str(source.get("data", "")))
    return found


def check_headers(headers: Mapping[str, str]) -> str:
    """Return the API version of a request.

    Raises:
        ApiError: 401 without a key, 400 without a version or with an unknown one.
    """
    key = headers.get("x-api-key", "").strip()
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if not key and not (scheme.lower() == "bearer" and token.strip()):
        raise ApiError(401, "a key is required: send x-api-key or Authorization: Bearer")
    version = headers.get("anthropic-version")
    if version is None:
        raise ApiError(400, "anthropic-version: header is required")
    if version not in (OLD_VERSION, NEW_VERSION):
        raise ApiError(400, f"anthropic-version: {version[:40]!r} is not a valid version")
    return version


def parse_request(body: bytes, version: str, *, counting: bool = False) -> MessagesRequest:
    """Decode and check a request's body.

    Args:
        body: The body as it came.
        version: What ``check_headers`` returned.
        counting: The request only counts tokens; ``max_tokens`` is not asked for.

    Raises:
        ApiError: 400; the message names the place, like ``messages.0.role: ...``.
    """
    fields = _object(body)
    _reject_unknown(fields, version)
    model = fields.get("model")
    _require(isinstance(model, str) and bool(model), "model: a non-empty string is required")
    max_tokens = 0 if counting and "max_tokens" not in fields else fields.get("max_tokens")
    _require(
        isinstance(max_tokens, int)
        and not isinstance(max_tokens, bool)
        and (max_tokens >= 1 or counting),
        "max_tokens: an integer of at least 1 is required",
    )
    assert isinstance(max_tokens, int)
    stream = fields.get("stream", False)
    _require(stream is None or isinstance(stream, bool), "stream: must be a boolean")
    messages = _messages(fields.get("messages"), version)
    tools = _tools(fields.get("tools"))
    return MessagesRequest(
        model=str(model),
        max_tokens=max_tokens,
        system=_system(fields.get("system")),
        messages=messages,
        tools=tools,
        tool_choice=_tool_choice(fields.get("tool_choice"), tools),
        stop_sequences=_stop_sequences(fields.get("stop_sequences")),
        stream=bool(stream),
    )


def _require(holds: bool, message: str) -> None:  # noqa: FBT001 - reads like an assertion
    if not holds:
        raise ApiError(400, message)


def _object(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "The request body is not valid JSON") from error
    _require(isinstance(fields, dict), "The request body must be a JSON object")
    assert isinstance(fields, dict)
    return fields


def _reject_unknown(fields: dict[str, Any], version: str) -> None:
    for name in fields:
        _require(name in _KNOWN, f"{name}: Extra inputs are not permitted")
        _require(
            version == OLD_VERSION or name not in _SAMPLING,
            f"{name}: is not accepted under {NEW_VERSION}",
        )
    for name in ("temperature", "top_p"):
        value = fields.get(name)
        fits = value is None or (
            isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
        )
        _require(fits, f"{name}: must be a number from 0 to 1")


def _system(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    _require(isinstance(value, list), "system: must be a string or a list of text blocks")
    for index, block in enumerate(value):
        _check_block(block, f"system.{index}", "system", frozenset({"text"}))
    return "\n".join(block["text"] for block in value)


def _messages(value: Any, version: str) -> list[dict[str, Any]]:
    _require(isinstance(value, list) and bool(value), "messages: at least one is required")
    open_calls: set[str] = set()
    for index, message in enumerate(value):
        place = f"messages.{index}"
        _require(isinstance(message, dict), f"{place}: must be an object")
        role, content = message.get("role"), message.get("content")
        _require(role in ("user", "assistant"), f"{place}.role: must be 'user' or 'assistant'")
        if index == 0:
            _require(role == "user", "messages: first message must use the 'user' role")
        if isinstance(content, str):
            _require(bool(content.strip()) or role == "assistant", f"{place}: content is empty")
            blocks: list[dict[str, Any]] = []
        else:
            _require(isinstance(content, list) and bool(content), f"{place}.content: is required")
            blocks = content
        for at, block in enumerate(blocks):
            _check_block(block, f"{place}.content.{at}", role, None)
            if version == NEW_VERSION:
                _check_new_dialect(block, f"{place}.content.{at}", role)
        open_calls = _pair_tools(blocks, place, role, open_calls)
    _require(not open_calls, "messages: tool_use ids were found without tool_result blocks after")
    return value  # type: ignore[no-any-return]


def _check_block(block: Any, place: str, role: str, allowed: frozenset[str] | None) -> None:
    _require(isinstance(block, dict), f"{place}: must be an object")
    kind = block.get("type")
    _require(isinstance(kind, str), f"{place}.type: Field required")
    _require(allowed is None or kind in allowed, f"{place}.type: {kind!r} is not allowed here")
    if kind == "text":
        _require(isinstance(block.get("text"), str), f"{place}.text: must be a string")
        _require(bool(block["text"]), f"{place}.text: text content blocks must be non-empty")
    elif kind == "tool_use":
        _require(isinstance(block.get("id"), str), f"{place}.id: must be a string")
        _require(isinstance(block.get("name"), str), f"{place}.name: must be a string")
        _require(isinstance(block.get("input"), dict), f"{place}.input: must be an object")
    elif kind == "tool_result":
        _require(isinstance(block.get("tool_use_id"), str), f"{place}.tool_use_id: is required")
    else:
        _require(kind in _BLOCK_TYPES, f"{place}.type: {kind!r} is not a known block type")
    _require(
        role != "user" or kind not in _ASSISTANT_ONLY, f"{place}: {kind} is not a user's block"
    )
    _require(
        role != "assistant" or kind != "tool_result", f"{place}: tool_result belongs to a user"
    )


_BLOCK_TYPES = frozenset(
    terms(
        "text image document search_result thinking redacted_thinking tool_use tool_result "
        "server_tool_use web_search_tool_result web_fetch_tool_result advisor_tool_result "
        "code_execution_tool_result bash_code_execution_tool_result "
        "text_editor_code_execution_tool_result tool_search_tool_result mcp_tool_use "
        "mcp_tool_result container_upload compaction tool_addition tool_removal mcp_tool_listing "
        "fallback"
    )
)


def _check_new_dialect(block: dict[str, Any], place: str, role: str) -> None:
    kind = block["type"]
    _require(
        not (role == "assistant" and kind == "document"),
        f"{place}: document blocks are not accepted in assistant messages",
    )
    _require(
        not (role == "user" and kind == "text" and block.get("citations") is not None),
        f"{place}.citations: are not accepted on user text",
    )


def _pair_tools(
    blocks: list[dict[str, Any]], place: str, role: str, open_calls: set[str]
) -> set[str]:
    """Return the calls this message leaves open; each result needs its call just before."""
    if role == "assistant":
        _require(not open_calls, f"{place}: tool_use ids are still without tool_result blocks")
        return {block["id"] for block in blocks if block["type"] == "tool_use"}
    results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
    for call in results:
        _require(
            call in open_calls,
            f"{place}: unexpected `tool_use_id` found in `tool_result` blocks: {call}. Each "
            "`tool_result` block must have a corresponding `tool_use` block in the previous "
            "message.",
        )
    missing = open_calls.difference(results)
    _require(
        not missing,
        f"{place}: `tool_use` ids were found without `tool_result` blocks immediately after: "
        + ", ".join(sorted(missing)),
    )
    return set()


def _tools(value: Any) -> list[dict[str, Any]]:
    if value is None:
        return []
    _require(isinstance(value, list), "tools: must be a list")
    names: set[str] = set()
    for index, tool in enumerate(value):
        _require(isinstance(tool, dict), f"tools.{index}: must be an object")
        name = tool.get("name")
        named = isinstance(name, str) and _TOOL_NAME.match(name) is not None
        _require(named, f"tools.{index}.name: must match {_TOOL_NAME.pattern}")
        _require(name not in names, "tools: Tool names must be unique.")
        names.add(str(name))
        if is_custom(tool):
            schema = tool.get("input_schema")
            fits = isinstance(schema, dict) and schema.get("type") == "object"
            _require(fits, f"tools.{index}.input_schema: a schema of type object is required")
    return value  # type: ignore[no-any-return]


def is_custom(tool: Mapping[str, Any]) -> bool:
    """Say whether the caller runs this tool; the server's own tools carry another type."""
    return tool.get("type") in (None, "custom")


def _tool_choice(value: Any, tools: list[dict[str, Any]]) -> dict[str, Any]:
    if value is None:
        return {"type": "auto"}
    _require(isinstance(value, dict), "tool_choice: must be an object")
    kind = value.get("type")
    _require(kind in ("auto", "any", "tool", "none"), "tool_choice.type: is not a known choice")
    _require(bool(tools) or kind == "none", "tool_choice: may only be set where tools are given")
    if kind == "tool":
        known = any(tool["name"] == value.get("name") for tool in tools)
        _require(known, f"tool_choice.name: tool {value.get('name')!r} is not in tools")
    return value  # type: ignore[no-any-return]


def _stop_sequences(value: Any) -> list[str]:
    if value is None:
        return []
    fits = isinstance(value, list) and all(isinstance(item, str) and item for item in value)
    _require(fits, "stop_sequences: must be a list of non-empty strings")
    return value  # type: ignore[no-any-return]
