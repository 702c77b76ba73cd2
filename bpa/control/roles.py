"""What people may do: the roles that pages and REST both ask. Pure."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What a person may do."""

    VIEWER = "viewer"
    OPERATOR = "operator"


UNSIGNED = Role.OPERATOR
"""Of whoever has not signed in, which is everybody yet: control listens on loopback, so who reaches
it is its operator."""
