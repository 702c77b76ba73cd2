"""How much of a run's contents is shown, and to whom: the one rule of pages, REST and CLI. Pure.

Contents are what a document says, what a model was asked and answered, and what was sent to the
target: personal data, as a rule. What looks like a secret is shown to nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from bpa.control.message_properties import SECRET_NAMES, WITHHELD
from bpa.control.roles import Role
from bpa.errors import NotAllowed

_DEPTH_MAX = 32
TEXT_CHARS_MAX = 262_144
"""Of one text; a longer one is cut, and says so."""


class Show(StrEnum):
    """How much is shown."""

    HIDDEN = "hidden"
    MASKED = "masked"
    WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class Disclosure:
    """What is shown of contents.

    Args:
        show: How much, to those who may see any.
        masked: Names of fields, in lower case, that are withheld where ``show`` is masked.
        redact: Replaces secrets in a text.
    """

    show: Show
    masked: frozenset[str]
    redact: Callable[[str], str]

    def to(self, role: Role) -> Show:
        """Return how much somebody may see."""
        return self.show if role is Role.OPERATOR else Show.HIDDEN

    def must_show(self, role: Role) -> None:
        """Check that somebody may see contents at all.

        Raises:
            NotAllowed: They may not; says which setting would let them.
        """
        if role is not Role.OPERATOR:
            raise NotAllowed("what runs work on is shown to operators alone; ask one")
        if self.show is Show.HIDDEN:
            raise NotAllowed(
                "what runs work on is hidden, for it may be personal data: set contents.show to "
                "masked (fields, less those of contents.masked) or whole where control runs"
            )

    def text(self, text: str) -> str:
        """Return a text as it may be shown: JSON by its fields, of masked prose its length."""
        value = _structure(text)
        if value is not None:
            return self._bounded(msgspec.json.encode(self.value(value)).decode())
        if self.show is Show.MASKED:
            return f"(withheld: {len(text):,} characters)"
        return self._bounded(self.redact(text))

    def value(self, value: Any, depth: int = 0) -> Any:
        """Return a JSON value with what must not be shown withheld, field by field."""
        if depth > _DEPTH_MAX:
            return WITHHELD
        if isinstance(value, dict):
            return {
                self.redact(name): WITHHELD
                if self._hides(name, member)
                else self.value(member, depth + 1)
                for name, member in value.items()
            }
        if isinstance(value, list):
            return [self.value(member, depth + 1) for member in value]
        if not isinstance(value, str):
            return value
        inner = _structure(value)  # JSON that a field holds as text has fields of its own
        if inner is not None:
            value = msgspec.json.encode(self.value(inner, depth + 1)).decode()
        return self._bounded(self.redact(value))

    def _hides(self, name: str, value: Any) -> bool:
        if isinstance(value, str) and SECRET_NAMES.search(name):
            return True
        return self.show is Show.MASKED and name.lower() in self.masked

    def _bounded(self, text: str) -> str:
        left_out = len(text) - TEXT_CHARS_MAX
        return text if left_out <= 0 else f"{text[:TEXT_CHARS_MAX]}… ({left_out:,} more)"


def _structure(text: str) -> dict[str, Any] | list[Any] | None:
    """Return a text's JSON object or array; None where it is none."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None
