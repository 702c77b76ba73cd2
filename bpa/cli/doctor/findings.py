"""What a check comes to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bpa.config import Settings
from bpa.control.rest.schemas import Document
from bpa.errors import BpaError
from bpa.roles.addresses import Addresses

CHECK_S = 20.0
"""What a check may take; those with a patience of their own end before."""


class State(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, and something about it deserves attention."""
    FAILED = "failed"
    """It cannot work like that."""


class Finding(Document, frozen=True):
    """One thing that was looked at."""

    check: str
    state: State
    found: str
    to_do: str = ""
    """What to do about it; empty where nothing is to be done."""


class Report(Document, frozen=True):
    """All that was looked at, as ``--json`` prints it."""

    role: str
    state: State
    """The worst of the findings."""
    findings: list[Finding]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is examined."""

    settings: Settings
    role: str
    """``all``, ``control`` or ``node``: what is to run here."""
    running: Addresses | None
    """The server that says to run with this data directory."""

    @property
    def is_control(self) -> bool:
        """Whether it is to be a control replica."""
        return self.role in ("all", "control")

    @property
    def is_node(self) -> bool:
        """Whether it is to execute runs."""
        return self.role in ("all", "node")

    @property
    def embeds(self) -> bool:
        """Whether what no setting names is started beside it."""
        return self.role == "all"

    @property
    def data_dir(self) -> Path:
        """Where the embedded servers keep their data."""
        return Path(self.settings.data_dir)


Check = Callable[[Subject], Awaitable[list[Finding]]]


def ok(check: str, found: str) -> Finding:
    """Return a finding that needs nothing."""
    return Finding(check=check, state=State.OK, found=found)


def warning(check: str, found: str, to_do: str) -> Finding:
    """Return a finding that deserves attention."""
    return Finding(check=check, state=State.WARNING, found=found, to_do=to_do)


def failed(check: str, found: str, to_do: str) -> Finding:
    """Return a finding that stands in the way."""
    return Finding(check=check, state=State.FAILED, found=found, to_do=to_do)


def variable(key: str) -> str:
    """Return the variable that sets a key."""
    return f"BPA_{key.upper().replace('.', '__')}"


def unset(check: str, subject: Subject, key: str, what: str) -> Finding:
    """Return the finding about a piece that no setting names: embedded, or missing."""
    if subject.embeds:
        state = "runs" if subject.running else "is started"
        return ok(check, f"embedded: it {state} beside role all")
    return failed(check, f"{key} is not set: {what}", f"set {variable(key)}")


async def bounded(check: Check, subject: Subject) -> list[Finding]:
    """Run a check, and make a finding of whatever it does not return from."""
    name = check.__name__.replace("_", " ")
    try:
        async with asyncio.timeout(CHECK_S):
            return await check(subject)
    except TimeoutError:
        return [failed(name, f"no answer within {CHECK_S:g} s", "see what it waits for")]
    except BpaError as error:
        return [failed(name, str(error), "see above" if "\n" in str(error) else "")]
