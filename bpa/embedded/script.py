"""Rules that tell a double when to be slow and when to fail, told over its control endpoint.

A script is ``{"rules": [rule, ...]}``. For each request the first rule whose ``match`` fits and
whose ``times`` is not used up applies; the others are not looked at. What a rule may match and
do is the double's own; the counting is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import msgspec

from bpa.errors import InvalidRequest


class Rule(Protocol):
    """What the counting needs of a rule."""

    @property
    def times(self) -> int | None:
        """How often the rule applies; None for ever."""

    @property
    def every(self) -> int:
        """Apply to each n-th request that matches; 1 is each one."""


R = TypeVar("R", bound=Rule)


class Script(Generic[R]):
    """The rules in force, with how often each has matched and applied."""

    def __init__(self) -> None:
        self._rules: Sequence[R] = ()
        self._matched: list[int] = []
        self._applied: list[int] = []

    @property
    def is_empty(self) -> bool:
        """No rule is in force."""
        return not self._rules

    def replace(self, rules: Sequence[R]) -> None:
        """Put ``rules`` in force, with fresh counts."""
        self._rules = tuple(rules)
        self._matched = [0] * len(self._rules)
        self._applied = [0] * len(self._rules)

    def choose(self, fits: Callable[[R], bool]) -> R | None:
        """Return the rule that applies to a request, and count it."""
        for index, rule in enumerate(self._rules):
            if rule.times is not None and self._applied[index] >= rule.times:
                continue
            if not fits(rule):
                continue
            self._matched[index] += 1
            if self._matched[index] % rule.every == 0:
                self._applied[index] += 1
                return rule
        return None

    def describe(self) -> dict[str, object]:
        """Return the rules as they were told, each with its counts."""
        return {
            "rules": [
                {"rule": msgspec.to_builtins(rule), "matched": matched, "applied": applied}
                for rule, matched, applied in zip(
                    self._rules, self._matched, self._applied, strict=True
                )
            ]
        }


class _Rules(msgspec.Struct, Generic[R], forbid_unknown_fields=True):
    rules: list[R]


def decode_rules(body: bytes, kind: type[R]) -> list[R]:
    """Decode a script's body.

    Raises:
        InvalidRequest: It is not JSON, or a rule has an unknown field or a wrong value.
    """
    try:
        return msgspec.json.decode(body, type=_Rules[kind]).rules  # type: ignore[valid-type]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the script is not valid: {error}") from error
