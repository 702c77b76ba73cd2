"""A deterministic estimate of tokens, the same for usage, ``count_tokens`` and ``max_tokens``.

Four bytes of UTF-8 make one token, rounded up for each text; each message costs four more, each
tool eight, an image 1,600. A real tokeniser gives other figures, commonly within a third for
European text; what matters here is that the same request always costs the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

BYTES_PER_TOKEN = 4
PER_MESSAGE = 4
PER_TOOL = 8
PER_IMAGE = 1_600


def count_text(text: str) -> int:
    """Return the tokens of one text."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)


def count_json(value: Any) -> int:
    """Return the tokens of a value written as compact JSON."""
    return count_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def count_input(
    system: str, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> int:
    """Return the input tokens of a request; never less than one."""
    total = count_text(system)
    for message in messages:
        content = message["content"]
        total += PER_MESSAGE
        if isinstance(content, str):
            total += count_text(content)
        else:
            total += sum(_count_block(block) for block in content)
    total += sum(PER_TOOL + count_json(tool) for tool in tools)
    return max(total, 1)


def count_output(content: Sequence[Mapping[str, Any]]) -> int:
    """Return the output tokens of an answer's blocks."""
    return sum(_count_block(block) for block in content)


def _count_block(block: Mapping[str, Any]) -> int:
    kind = block["type"]
    if kind == "text":
        return count_text(block["text"])
    if kind == "image":
        return PER_IMAGE
    if kind == "tool_use":
        return PER_TOOL + count_text(block["name"]) + count_json(block["input"])
    if kind == "tool_result" and isinstance(block.get("content"), str):
        return count_text(block["content"])
    return count_json({name: value for name, value in block.items() if name != "cache_control"})
