"""How two specs of a deployment differ, and one edit put on top of another. Pure.

Specs are compared leaf by leaf, as their whole JSON has them; a list is one leaf, and so is an
input schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from bpa.domain.specs import DeploymentSpec

_Path = tuple[str, ...]
_WHOLE = frozenset({("inputSchema",)})
_ORDER = (
    "version", "queue", "target", "placement", "routes", "budgets", "maxEffects", "httpOut",
    "inputSchema",
)  # fmt: skip


class Problem(NamedTuple):
    """A field that will not do, by its path in the spec's JSON; empty for the whole."""

    field: str
    text: str

    def __str__(self) -> str:
        """Say both in one line."""
        return f"{self.field}: {self.text}" if self.field else self.text


@dataclass(frozen=True, slots=True)
class Change:
    """A field and what it says before and after; None where it says nothing."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Rebased:
    """An edit put on top of another."""

    tree: Mapping[str, Any]
    """The other's spec with what the edit changed."""
    clashes: tuple[Change, ...]
    """What both changed, each otherwise: the other's, and the edit's, which stands."""


def changes(before: DeploymentSpec, after: DeploymentSpec) -> list[Change]:
    """Return what one spec says otherwise than another, in the order of a spec."""
    old, new = _leaves(before), _leaves(after)
    return [
        Change(".".join(path), old.get(path), new.get(path))
        for path in sorted({**old, **new}, key=_place)
        if old.get(path) != new.get(path)
    ]


def rebased(base: DeploymentSpec, theirs: DeploymentSpec, mine: DeploymentSpec) -> Rebased:
    """Put an edit of ``base`` on top of another edit of it."""
    was, is_now, wanted = _leaves(base), _leaves(theirs), _leaves(mine)
    tree: dict[str, Any] = {}
    clashes = []
    for path in sorted({**was, **is_now, **wanted}, key=_place):
        old, their, own = was.get(path), is_now.get(path), wanted.get(path)
        if own != old and their not in (old, own):
            clashes.append(Change(".".join(path), their, own))
        source = is_now if own == old else wanted
        if path in source:
            _put(tree, path, source[path])
    return Rebased(tree, tuple(clashes))


def _leaves(spec: DeploymentSpec) -> dict[_Path, Any]:
    found: dict[_Path, Any] = {}
    inner: list[tuple[_Path, Any]] = [((), msgspec.to_builtins(spec))]
    while inner:
        path, value = inner.pop()
        if isinstance(value, dict) and path not in _WHOLE:
            inner += [((*path, key), one) for key, one in value.items()]
        else:
            found[path] = value
    return found


def _place(path: _Path) -> tuple[int, _Path]:
    return (_ORDER.index(path[0]) if path[0] in _ORDER else -1), path


def _put(tree: dict[str, Any], path: _Path, value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value
