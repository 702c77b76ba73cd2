"""The cause of a dead letter: its detail without what tells one letter from the next. Pure.

A thousand letters whose details differ in a run's id, an amount and a number of tries have one
cause, and are one group. What distinguishes causes stays: the words, the host, the status of HTTP.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from bpa.documents.characters import one_line

CAUSE_CHARS_MAX = 300
_READ_CHARS_MAX = 4_096
_DROPPED = "…"

_QUOTED = re.compile(r"""(?<!\w)'[^']*'(?!\w)|"[^"]*"|`[^`]*`""")
_UUID = re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?::[0-9:]+)?")
_PORT = re.compile(
    r"(?P<host>\b[A-Za-z][\w.-]*|\[[0-9A-Fa-f:]+\]|\b(?:\d{1,3}\.){3}\d{1,3}):\d{1,5}\b(?!:)"
)
_PATH = re.compile(r"(?P<host>\bhttps?://[^/\s,;?#]+)[/?#][^\s,;]*")
_TIME = re.compile(r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?")
_STATUS = re.compile(r"\b(?:HTTP(?:/\d(?:\.\d)?)? |status(?: code)?:? )(?P<code>[1-5]\d\d)\b", re.I)
_ADDRESS = re.compile(r"(?:\d{1,3}\.){3}\d{1,3}")
_CODED = re.compile(r"(?<![\w…])(?=[\w-]*\d)[A-Za-z0-9][\w-]*(?:[.,]\d+)*(?![\w…])")
_REPEATED = re.compile(rf"{_DROPPED}(?:[\s,.:;/_-]*{_DROPPED})+")


def cause_of(detail: str) -> str:
    """Return the normal form of a dead letter's detail, on one line; empty for an empty one.

    Quoted values, ids, times, numbers and the ports of hosts are dropped, and whatever stands in a
    URL behind its host; a status of HTTP stays, since 429 and 503 are different troubles, and so
    does an address, since it names who failed. The same text always gives the same cause.
    """
    text = one_line(detail[:_READ_CHARS_MAX])
    for pattern in (_QUOTED, _UUID, _TIME):
        text = pattern.sub(_DROPPED, text)
    text = _PATH.sub(r"\g<host>", text)
    text = _PORT.sub(r"\g<host>", text)
    kept = {match.span("code") for match in _STATUS.finditer(text)}
    kept |= {match.span() for match in _ADDRESS.finditer(text)}

    def dropped(match: re.Match[str]) -> str:
        return match[0] if match.span() in kept else _DROPPED

    return _REPEATED.sub(_DROPPED, _CODED.sub(dropped, text))[:CAUSE_CHARS_MAX].strip()


def group_of(queue: str, reason: str, cause: str) -> str:
    """Return the short name of the dead letters of one queue, reason and cause: 12 hex digits.

    It follows from them alone, so that it names the same group tomorrow and at another replica.
    """
    said = "\0".join((queue, reason, cause)).encode("utf-8", "surrogatepass")
    return hashlib.sha256(said).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters are meant: those to which everything applies that is not None."""

    queue: str | None = None
    reason: str | None = None
    group: str | None = None
    """The short name of a group."""

    def takes(self, queue: str, reason: str, detail: str) -> bool:
        """Tell whether a letter is one of them."""
        if self.queue not in (None, queue) or self.reason not in (None, reason):
            return False
        return self.group is None or self.group == group_of(queue, reason, cause_of(detail))
