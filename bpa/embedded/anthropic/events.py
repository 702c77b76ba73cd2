"""Write an answer as the API does: one JSON message, or a stream of server-sent events. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from bpa.embedded.anthropic.answers import Answer

_CHUNK = 48


def message(made: Answer, message_id: str, model: str) -> dict[str, Any]:
    """Return the message object of an answer."""
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": made.content,
        "stop_reason": made.stop_reason,
        "stop_sequence": made.stop_sequence,
        "usage": _usage(made, made.output_tokens),
    }


def stream(made: Answer, message_id: str, model: str) -> Iterator[bytes]:
    """Yield the events of an answer in their order, each ready for the wire."""
    start = message(made, message_id, model)
    start |= {"content": [], "stop_reason": None, "stop_sequence": None}
    start["usage"] = _usage(made, 1)
    yield event("message_start", {"message": start})
    yield event("ping", {})
    for index, block in enumerate(made.content):
        yield from _block(index, block)
    yield event(
        "message_delta",
        {
            "delta": {"stop_reason": made.stop_reason, "stop_sequence": made.stop_sequence},
            "usage": {"output_tokens": made.output_tokens},
        },
    )
    yield event("message_stop", {})


def event(kind: str, fields: dict[str, Any]) -> bytes:
    """Return one server-sent event; its name is its data's type."""
    data = json.dumps({"type": kind, **fields}, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode()


def _usage(made: Answer, output_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": made.input_tokens,
        "output_tokens": output_tokens,
        "cache_creation_input_tokens": made.cache_write_tokens,
        "cache_read_input_tokens": made.cache_read_tokens,
        "service_tier": "standard",
    }


def _block(index: int, block: dict[str, Any]) -> Iterator[bytes]:
    if block["type"] == "text":
        opening, whole = {**block, "text": ""}, block["text"]
        kind, field = "text_delta", "text"
    else:
        opening = {**block, "input": {}}
        whole = json.dumps(block["input"], separators=(",", ":"))
        kind, field = "input_json_delta", "partial_json"
    yield event("content_block_start", {"index": index, "content_block": opening})
    for at in range(0, len(whole), _CHUNK):
        delta = {"type": kind, field: whole[at : at + _CHUNK]}
        yield event("content_block_delta", {"index": index, "delta": delta})
    yield event("content_block_stop", {"index": index})
