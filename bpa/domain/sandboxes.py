"""What keeps a sandbox in, by name, and what level that comes to. Pure.

A node tries each protection in a confined child when it starts and publishes those in force:
what is shown of a node was measured there, not read from its settings.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import StrEnum


class Protection(StrEnum):
    """One thing that keeps a sandbox in."""

    OWN_USER = "own_user"
    OWN_SESSION = "own_session"
    ENDS_WITH_NODE = "ends_with_node"
    OPENS_NOTHING = "opens_nothing"
    STARTS_NOTHING = "starts_nothing"
    MEMORY_LIMIT = "memory_limit"
    CPU_LIMIT = "cpu_limit"
    NO_NEW_PRIVILEGES = "no_new_privileges"
    MEMORY_HIDDEN = "memory_hidden"
    LANDLOCK = "landlock"
    SECCOMP = "seccomp"


class SandboxLevel(StrEnum):
    """What the protections come to, weakest first."""

    PARTIAL = "partial"
    """Something is missing that every sandbox of this release should have."""
    PROCESS = "process"
    """A process that can open and start nothing, under the node's own user."""
    USER = "user"
    """The same under a user apart from the node's, which owns nothing."""


_BEYOND = frozenset({Protection.OWN_USER, Protection.LANDLOCK, Protection.SECCOMP})
"""What level `SandboxLevel.PROCESS` does without. No release has the last two yet."""

LEVEL_WORDS = {
    SandboxLevel.PARTIAL: "partial",
    SandboxLevel.PROCESS: "process",
    SandboxLevel.USER: "process, own user",
}
_HELD = {
    Protection.OWN_USER: "a user apart from the node's, which sandboxes share",
    Protection.OWN_SESSION: "a session of its own",
    Protection.ENDS_WITH_NODE: "ends with its node",
    Protection.OPENS_NOTHING: "opens no file, no socket",
    Protection.STARTS_NOTHING: "starts no process",
    Protection.MEMORY_LIMIT: "bounded memory",
    Protection.CPU_LIMIT: "bounded processor time",
    Protection.NO_NEW_PRIVILEGES: "gains no privilege",
    Protection.MEMORY_HIDDEN: "closed to others of its user",
    Protection.LANDLOCK: "file system rules (Landlock)",
    Protection.SECCOMP: "a system call filter (seccomp)",
}
_MISSING = {
    Protection.OWN_USER: "runs as the node's user: start the node as root for one of its own",
    Protection.OWN_SESSION: "shares the node's session",
    Protection.ENDS_WITH_NODE: "may outlive its node",
    Protection.OPENS_NOTHING: "can open files or sockets",
    Protection.STARTS_NOTHING: "can start processes: the kernel exempts this user, who is root "
    "outside of the user namespace",
    Protection.MEMORY_LIMIT: "memory without a bound",
    Protection.CPU_LIMIT: "processor time without a bound",
    Protection.NO_NEW_PRIVILEGES: "may gain privileges by what it executes",
    Protection.MEMORY_HIDDEN: "others of its user can read its memory",
    Protection.LANDLOCK: "no file system rules (Landlock): not in this release",
    Protection.SECCOMP: "no system call filter (seccomp): not in this release",
}


def level_of(held: Collection[str]) -> SandboxLevel:
    """Return what the protections in force come to."""
    if any(one not in held for one in Protection if one not in _BEYOND):
        return SandboxLevel.PARTIAL
    return SandboxLevel.USER if Protection.OWN_USER in held else SandboxLevel.PROCESS


def missing_from(held: Collection[str]) -> list[Protection]:
    """Return the protections known here that are not in force."""
    return [one for one in Protection if one not in held]


def in_force(held: Sequence[str]) -> list[str]:
    """Return protections in words; one that a newer release has is shown by its name."""
    return [_HELD[Protection(one)] if one in _HELD else one for one in held]


def not_in_force(missing: Sequence[str]) -> list[str]:
    """Return in words what is missing, and what to do about it where something can be done."""
    return [_MISSING[Protection(one)] if one in _MISSING else one for one in missing]
