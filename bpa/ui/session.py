"""Who sits before the page: the one place that knows.

Nobody signs in yet: the app listens on loopback, so whoever reaches it is the local operator. Once
people sign in, this is where their token becomes a person and a role; pages and audits take both
from here already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from litestar import Request

from bpa.control.actors import Door, actor
from bpa.control.roles import UNSIGNED, Role
from bpa.errors import NotAllowed


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who looks at a page or acts on it."""

    name: str
    role: Role

    @property
    def actor(self) -> str:
        """Return how audits name them."""
        return actor(Door.UI, self.name)


_LOCAL = Person("local", UNSIGNED)


def person_of(request: Request[Any, Any, Any]) -> Person:
    """Return who sent a request."""
    return _LOCAL


def operator_of(request: Request[Any, Any, Any]) -> Person:
    """Return who sent a request that changes something.

    Raises:
        NotAllowed: Their role does not cover it.
    """
    person = person_of(request)
    if person.role is not Role.OPERATOR:
        raise NotAllowed(f"{person.name} may look but not act; ask an operator")
    return person
