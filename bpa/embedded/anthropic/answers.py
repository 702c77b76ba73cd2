"""Decide the stub's answer to a valid request. Pure and deterministic: rules, not a model.

With a tool to call and no result yet, the document in the user's text is read and the tool is
called with what stands there; after a tool's result, or without tools, a short text follows, unless
a rule asks for another call.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bpa.embedded.anthropic import tokens
from bpa.embedded.anthropic.documents import read_document
from bpa.embedded.anthropic.facts import Facts
from bpa.embedded.anthropic.protocol import MessagesRequest, is_custom
from bpa.embedded.anthropic.routes import choose_route
from bpa.embedded.anthropic.rules import Behaviour

WRONG_ROUTE = "no-such-route"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer's blocks, why it stopped, and what it costs."""

    content: list[dict[str, Any]]
    stop_reason: str
    input_tokens: int
    """Neither read from a cache nor written to one."""
    output_tokens: int
    stop_sequence: str | None = None
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0


def answer(request: MessagesRequest, behave: Behaviour, call_id: str) -> Answer:
    """Answer ``request``; a tool call gets the id ``call_id``."""
    if behave is Behaviour.REFUSE:
        content = [_text("The stub was told to refuse this request.")]
        return _finish(request, content, "refusal")
    again = behave is Behaviour.ANOTHER_CALL
    tool = None if behave is Behaviour.TEXT else _tool_to_call(request, again=again)
    if tool is None:
        return _finish(request, [_text(_words_for(request))], "end_turn")
    facts = read_document(request.user_text)
    arguments = _arguments(tool, facts)
    if behave is Behaviour.WRONG_ARGUMENTS:
        arguments = {**arguments, "route": WRONG_ROUTE}
    elif again and "route" in arguments:
        arguments = {**arguments, "route": _next_route(tool, arguments["route"])}
    call = {"type": "tool_use", "id": call_id, "name": tool["name"], "input": arguments}
    return _finish(request, [call], "tool_use")


def cached(made: Answer, read: int, written: int) -> Answer:
    """Have so many of an answer's input tokens, if there are as many, pass through a cache."""
    read = min(read, made.input_tokens)
    written = min(written, made.input_tokens - read)
    return replace(
        made,
        input_tokens=made.input_tokens - read - written,
        cache_read_tokens=read,
        cache_write_tokens=written,
    )


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _next_route(tool: Mapping[str, Any], route: Any) -> Any:
    """Return the route after ``route`` in the tool's list, the first after the last."""
    properties = tool["input_schema"].get("properties")
    routes = _enum(properties.get("route")) if isinstance(properties, dict) else []
    return routes[(routes.index(route) + 1) % len(routes)] if route in routes else route


def _tool_to_call(request: MessagesRequest, *, again: bool) -> dict[str, Any] | None:
    kind = request.tool_choice["type"]
    custom = [tool for tool in request.tools if is_custom(tool)]
    if kind == "none" or not custom:
        return None
    if kind == "tool":
        name = request.tool_choice["name"]
        return next((tool for tool in custom if tool["name"] == name), None)
    if kind == "auto" and request.answers_a_tool_result and not again:
        return None
    return custom[0]


def _words_for(request: MessagesRequest) -> str:
    if request.answers_a_tool_result:
        blocks = request.messages[-1]["content"]
        failed = any(block.get("is_error") for block in blocks if block["type"] == "tool_result")
        return "The tool reported an error." if failed else "Done: the tool's result was received."
    facts = read_document(request.user_text)
    if facts.vendor is None:
        return "This is a model stub: it found no invoice in the text."
    what = "credit note" if facts.is_credit else "invoice"
    return f"This is a model stub: it read a {what} from {facts.vendor}."


def _finish(request: MessagesRequest, content: list[dict[str, Any]], stop: str) -> Answer:
    made = Answer(
        content=content,
        stop_reason=stop,
        input_tokens=tokens.count_input(request.system, request.messages, request.tools),
        output_tokens=tokens.count_output(content),
    )
    if content[0]["type"] == "text":
        made = _stopped(made, request.stop_sequences)
    return _limited(made, request.max_tokens)


def _stopped(made: Answer, sequences: Sequence[str]) -> Answer:
    text = made.content[0]["text"]
    hits = [(text.find(sequence), sequence) for sequence in sequences if sequence in text]
    if not hits:
        return made
    at, sequence = min(hits)
    return replace(
        made,
        content=[_text(text[:at])] if at else [],
        stop_reason="stop_sequence",
        stop_sequence=sequence,
        output_tokens=tokens.count_text(text[:at]),
    )


def _limited(made: Answer, limit: int) -> Answer:
    """Cut an answer to ``limit`` tokens: a text at its end, a call by its last arguments."""
    if made.output_tokens <= limit:
        return made
    block = dict(made.content[0])
    if block["type"] == "text":
        cut = block["text"].encode("utf-8", "replace")[: limit * tokens.BYTES_PER_TOKEN]
        block["text"] = cut.decode("utf-8", "ignore")
    else:
        block["input"] = dict(block["input"])
        while block["input"] and tokens.count_output([block]) > limit:
            block["input"].popitem()
    return replace(made, content=[block], stop_reason="max_tokens", output_tokens=limit)


def _arguments(tool: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    schema = tool["input_schema"]
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return {}
    required = schema.get("required")
    wanted = required if isinstance(required, list) else []
    return dict(_filled(properties, [name for name in wanted if isinstance(name, str)], facts))


def _filled(
    properties: Mapping[str, Any], required: Sequence[str], facts: Facts
) -> Iterator[tuple[str, Any]]:
    known = _known(properties, facts)
    for name, schema in properties.items():
        schema = schema if isinstance(schema, dict) else {}
        value = known.get(name)
        if name == "kind":
            value = _kind(facts, _enum(schema))
        if value is not None:
            yield name, value
        elif name in required:
            yield name, _blank(schema)


def _known(properties: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    known: dict[str, Any] = {
        "vendor": facts.vendor,
        "invoice_id": facts.invoice_id,
        "total": facts.total,
        "currency": facts.currency,
        "issued_on": facts.issued_on,
    }
    routes = _enum(properties.get("route"))
    if "route" in properties:
        choice = choose_route(
            routes or ["general"], vendor=facts.vendor, words=facts.words, total=facts.total
        )
        known |= {
            "route": choice.route,
            "confidence": choice.confidence if facts.vendor else min(choice.confidence, 0.2),
            "reason": choice.reason,
        }
    return known


def _enum(schema: Any) -> list[str]:
    if not isinstance(schema, dict):
        return []
    values = schema.get("enum")
    if values is None and "const" in schema:
        values = [schema["const"]]
    if not isinstance(values, list):
        return []
    return [value for value in values if isinstance(value, str)]


def _kind(facts: Facts, allowed: Sequence[str]) -> str | None:
    """Return the document's own word for its kind, or the one of a closed list that says it."""
    if not allowed:
        return facts.kind
    credit = [value for value in allowed if re.search(r"credit", value, re.IGNORECASE)]
    plain = [value for value in allowed if value not in credit]
    ranked = credit + plain if facts.is_credit else plain + credit
    return ranked[0]


def _blank(schema: Mapping[str, Any]) -> Any:
    """Return the emptiest value a schema takes: the document does not say this field."""
    values = schema.get("enum")
    if isinstance(values, list) and values:
        return values[0]
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    blanks: dict[str, Any] = {
        "number": 0,
        "integer": 0,
        "boolean": False,
        "array": [],
        "object": {},
        "null": None,
    }
    return blanks.get(kind, "") if isinstance(kind, str) else ""
