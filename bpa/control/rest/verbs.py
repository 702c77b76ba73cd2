"""``/v1/runs/{id}:complete``: the router takes no ``{id}:verb`` segment.

The path is rewritten to ``/v1/runs/{id}/:complete`` before routing; the OpenAPI document shows it
as it is written in the architecture document. A colon that leads no verb of ours stays as it is:
ids may hold one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_VERB = re.compile(r"/:([a-z]+)$")
_LAST = re.compile(r"^(.*[^/]):([a-z]+)$", re.DOTALL)


def verbs_of(paths: Iterable[str]) -> frozenset[str]:
    """Return the verbs that routed paths end in."""
    return frozenset(match[1] for path in paths if (match := _VERB.search(path)))


def routed(path: str, verbs: frozenset[str]) -> str:
    """Return the path as the router knows it."""
    match = _LAST.match(path)
    return f"{match[1]}/:{match[2]}" if match and match[2] in verbs else path


def documented(path: str) -> str:
    """Return the path as people write it."""
    return _VERB.sub(r":\1", path)


def resource_of(path: str) -> str:
    """Return a documented path without its verb."""
    return _LAST.sub(r"\1", path)
