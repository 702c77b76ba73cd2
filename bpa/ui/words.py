"""How values read on a page, beside `bpa.words`: text made harmless, numbers, moments. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import regex

from bpa.documents.characters import visible
from bpa.words import span

TEXT_CHARS_MAX = 2_000
"""Of one value on a page; a longer one is cut, and says so."""
_MARKS = regex.compile(r"(\p{M}{3})\p{M}+")
_ID_CHARS = 8
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def harmless(text: str, most: int = TEXT_CHARS_MAX) -> str:
    """Return a stranger's text as a page can show it.

    Control, bidirectional and invisible characters are left out, so that it can neither reorder
    nor hide what stands beside it; piles of combining marks are cut to three, so that it stays
    within its line; and it is bounded. Markup is the template's to escape.
    """
    cut = len(text) > most
    shown = visible(text[:most] if cut else text)
    if not shown.isascii():  # there are two thousand values in a page, and most of them are
        shown = _MARKS.sub(r"\1", shown)
    return f"{shown}…" if cut else shown


def ago(at: datetime, now: datetime) -> str:
    """Return when something was or will be, seen from now."""
    seconds = (now - at).total_seconds()
    if abs(seconds) < 1:
        return "now"
    return f"{_whole(seconds)} ago" if seconds > 0 else f"in {_whole(-seconds)}"


def _whole(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else span(seconds)


def exact(at: datetime) -> str:
    """Return a time to the millisecond, to be compared with logs and other people's screens."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + " UTC"


def moment(at: datetime) -> str:
    """Return a time of day to the millisecond, for a line of a log."""
    return f"{at.astimezone(UTC):%H:%M:%S.%f}"[:-3]


def count(number: float) -> str:
    """Return a number with its thousands apart."""
    return f"{number:,.0f}"


def short(number: float) -> str:
    """Return a number in at most four characters or so, for a card or an axis."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if abs(number) >= 10 * size or (abs(number) >= size and unit == "M"):
            return f"{number / size:.1f}{unit}"
    return f"{number:,.0f}" if number == int(number) or number >= 100 else f"{number:.1f}"


def percent(part: float, of: float) -> str:
    """Return a share, never rounded up to all of it."""
    if not of:
        return "\N{EN DASH}"
    share = 100 * part / of
    return f"{min(share, 99.9):.1f} %" if part != of else "100 %"


def brief(name: str) -> str:
    """Return the part of an id that tells it from its neighbours: of a UUID, its end."""
    if _UUID.fullmatch(name):
        return f"…{name[-_ID_CHARS:]}"
    return name
