"""Who did it, in the one form that audits and histories have: ``door:who``. Pure.

The door is where they came in: ``cli:alice@desk``, ``ui:local``, ``api:alice``; ``api`` alone is a
caller of REST who did not say. Who it is stands as told until callers are authenticated, so it is
bounded, on one line, and without characters that nobody sees.
"""

from __future__ import annotations

from enum import StrEnum

from bpa.documents.characters import one_line

ACTOR_CHARS_MAX = 200


class Door(StrEnum):
    """Where somebody came in."""

    API = "api"
    CLI = "cli"
    UI = "ui"


def actor(door: Door, who: str = "") -> str:
    """Return how somebody is named who came in by a door."""
    name = one_line(who[:ACTOR_CHARS_MAX])
    return f"{door}:{name}"[:ACTOR_CHARS_MAX] if name else str(door)


def told(said: str) -> str:
    """Return how a caller of REST is named by what they say of themselves.

    The command line is such a caller too, and says so; nobody gets in by the pages' door here.
    """
    door, colon, who = said.partition(":")
    if colon and door == Door.CLI and who.strip():
        return actor(Door.CLI, who)
    return actor(Door.API, "" if said == Door.API else said)


def cancelled_by(who: str, why: str) -> str:
    """Return the detail of a run that somebody cancelled."""
    return f"cancelled by {who}: {why}" if why else f"cancelled by {who}"
