"""Names that people give: they stand in paths, labels and log lines."""

from __future__ import annotations

import re

from bpa.domain.specs import NAME_PATTERN
from bpa.errors import InvalidRequest

_NAME = re.compile(NAME_PATTERN)


def check_names(**names: str) -> None:
    """Refuse names that are empty, longer than 253 characters, or hold more than ``A-Za-z0-9._+-``.

    Args:
        **names: What each name is of, and the name.

    Raises:
        InvalidRequest: With a line for each name that will not do.
    """
    problems = [
        f"{what}: {name[:64]!r} is no name; letters and digits, inside also . _ + -, 253 at most"
        for what, name in names.items()
        if not _NAME.fullmatch(name)
    ]
    if problems:
        raise InvalidRequest("; ".join(problems), problems)
