"""A deployment's spec as a form and as JSON, side by side: one tree of values, written both ways.

A form's text comes back as a patch: where a field says something else than the tree that it was
written from, the field is put into the tree; all else is as the JSON has it. What is no number, no
list, no label stays the text that it is, and the server's one check of specs says so.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bpa.ui.words import harmless

TEXT_CHARS_MAX = 200_000
"""Of the JSON, and of any field."""


class Kind(StrEnum):
    """How a value is typed in."""

    TEXT = "text"
    NUMBER = "number"
    LINES = "lines"
    """A list, a value a line."""
    LABELS = "labels"
    """Lists by name, a name a line."""
    CHOICE = "choice"
    """Yes or no."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the form."""

    path: str
    """Of its value in the spec's JSON, and the field's name."""
    label: str
    hint: str = ""
    kind: Kind = Kind.TEXT

    @property
    def id(self) -> str:
        """Return what the page calls it."""
        return "f-" + self.path.replace(".", "-")


GROUPS: tuple[tuple[str, tuple[Field, ...]], ...] = (
    (
        "What works where",
        (
            Field("version", "Version of the agent"),
            Field("queue", "Queue", "changes while it is paused and no run of it is alive"),
            Field("target.slotBudget", "Slot budget", "runs at once, of each replica", Kind.NUMBER),
            Field("target.replicas", "Replicas", kind=Kind.NUMBER),
            Field("target.resources.cpu", "CPU of a run", "such as 500m or 2"),
            Field("target.resources.memory", "Memory of a run", "such as 512Mi or 1Gi"),
            Field(
                "placement.affinity",
                "Placement",
                "a label a line with what it may be, as region: aus-east, aus-west",
                Kind.LABELS,
            ),
        ),
    ),
    (
        "Budgets of a run",
        (
            Field("budgets.maxTokens", "Tokens", kind=Kind.NUMBER),
            Field("budgets.maxDuration", "Time at work", "such as 60s or 5m"),
            Field("budgets.maxCalls", "Model calls", kind=Kind.NUMBER),
            Field("budgets.maxUsd", "USD", "empty for no limit", Kind.NUMBER),
            Field("maxEffects", "Effects", "1 to 5", Kind.NUMBER),
        ),
    ),
    (
        "Target",
        (
            Field("httpOut.baseUrl", "Address", "empty for that of the settings"),
            Field("httpOut.timeoutS", "Timeout", "seconds", Kind.NUMBER),
            Field("httpOut.idempotent", "Honours idempotency keys", kind=Kind.CHOICE),
            Field("routes", "Routes", "one a line", Kind.LINES),
        ),
    ),
)
FIELDS = tuple(field for _, fields in GROUPS for field in fields)


def shown(field: Field, tree: Any) -> str:
    """Return the text of a field."""
    value = _at(tree, field.path)
    if value is None:
        return ""
    text = _written(field.kind, value)
    return harmless(text, TEXT_CHARS_MAX)


def patched(tree: Any, synced: Any, typed: Mapping[str, str]) -> Any:
    """Return a tree with what was typed into fields that were written from another one.

    Args:
        tree: As the JSON has it.
        synced: What the fields were written from.
        typed: Text by the field's name; fields that are missing say nothing.
    """
    if not isinstance(tree, dict):
        return tree
    tree = copy.deepcopy(tree)
    for field in FIELDS:
        text = typed.get(field.path)
        if text is not None and _lines(text) != _lines(shown(field, synced)):
            _put(tree, field.path, _read(field.kind, text))
    return tree


def json_text(tree: Any, *, compact: bool = False) -> str:
    """Return a tree as JSON that a page can show, and that reads as the same tree again."""
    layout: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 2}
    text = json.dumps(tree, ensure_ascii=False, **layout)
    if harmless(text, TEXT_CHARS_MAX) == text:
        return text
    return json.dumps(tree, ensure_ascii=True, **layout)


def _at(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *outer, last = path.split(".")
    for key in outer:
        inner = tree.get(key)
        if not isinstance(inner, dict):
            inner = tree[key] = {}
        tree = inner
    tree[last] = value


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _written(kind: Kind, value: Any) -> str:
    if kind is Kind.LINES and _is_words(value):
        return "\n".join(value)
    if kind is Kind.LABELS and isinstance(value, dict) and all(map(_is_words, value.values())):
        return "\n".join(f"{name}: {', '.join(values)}" for name, values in value.items())
    if kind is Kind.CHOICE and isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _read(kind: Kind, text: str) -> Any:
    text = text.strip()
    if kind is Kind.NUMBER:
        return _number(text)
    if kind is Kind.CHOICE:
        return {"yes": True, "no": False}.get(text, text)
    if kind is Kind.LINES:
        return _lines(text)
    if kind is Kind.LABELS:
        return _labels(_lines(text))
    return text


def _number(text: str) -> int | float | str | None:
    if not text:
        return None
    for read in (int, float):
        try:
            number = read(text)
        except ValueError:
            continue
        return number if abs(number) < 2**53 else text
    return text


def _labels(lines: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in lines:
        name, colon, values = line.partition(":")
        words = [word.strip() for word in values.split(",") if word.strip()]
        found[name.strip()] = words if colon else line
    return found
