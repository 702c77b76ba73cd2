"""Dates as people write them, in the languages of our documents."""

from __future__ import annotations

import re
import unicodedata
from datetime import date

# English, German, French, Spanish, Italian, Dutch; January first, abbreviations after full names.
_MONTH_NAMES = (
    "january jan januar janner janvier janv enero ene gennaio gen januari",
    "february feb februar fevrier fevr fev febrero febbraio februari",
    "march mar marz mrz mars marzo maart mrt",
    "april apr avril avr abril abr aprile",
    "may mai mayo maggio mei",
    "june jun juni juin junio giugno giu",
    "july jul juli juillet juil julio luglio lug",
    "august aug aout agosto ago augustus",
    "september sep sept septembre septiembre set settembre",
    "october oct oktober okt octobre octubre ottobre ott",
    "november nov novembre noviembre",
    "december dec dezember dez decembre diciembre dic dicembre",
)
_MONTHS = {name: at for at, names in enumerate(_MONTH_NAMES, 1) for name in names.split()}

_ISO = re.compile(r"([0-9]{4})[-/.]([0-9]{1,2})[-/.]([0-9]{1,2})")
_COMPACT = re.compile(r"((?:19|20)[0-9]{2})([0-9]{2})([0-9]{2})")
_NUMERIC = re.compile(r"([0-9]{1,2}) ?([-/.]) ?([0-9]{1,2}) ?\2 ?([0-9]{4}|[0-9]{2})")
_DAY_FIRST = re.compile(
    r"(?:[a-z]+,? )??([0-9]{1,2})(?:\.|st|nd|rd|th|er|º|°)?[ -]?(?:of |de )?"
    r"([a-z]+)\.?,?[ -]?(?:de |del )?([0-9]{4})"
)
_MONTH_FIRST = re.compile(r"(?:[a-z]+, )?([a-z]+)\.? ([0-9]{1,2})(?:st|nd|rd|th)?,? ([0-9]{4})")
_EARLIEST, _LATEST = 1900, 2199


def read_date(written: str, *, month_first: bool = False) -> date | None:
    """Read a date as it stands in prose, or return None.

    ``12.03.2026`` and ``12-03-2026`` put the day first. In ``12/03/2026`` a number above 12 is the
    day; otherwise ``month_first`` decides. Two-digit years are of this century.
    """
    text = " ".join(_unaccented(written).split())
    if found := _ISO.fullmatch(text) or _COMPACT.fullmatch(text):
        return _date(found[1], found[2], found[3])
    if found := _NUMERIC.fullmatch(text):
        return _numeric(found, month_first=month_first)
    if found := _DAY_FIRST.fullmatch(text):
        return _date(found[3], _MONTHS.get(found[2]), found[1])
    if found := _MONTH_FIRST.fullmatch(text):
        return _date(found[3], _MONTHS.get(found[1]), found[2])
    return None


def _numeric(found: re.Match[str], *, month_first: bool) -> date | None:
    first, mark, second, year = found[1], found[2], found[3], found[4]
    year = year if len(year) == 4 else f"20{year}"
    swapped = mark == "/" and (int(second) > 12 or (month_first and int(first) <= 12))
    return _date(year, first, second) if swapped else _date(year, second, first)


def _date(year: str, month: str | int | None, day: str) -> date | None:
    if month is None or not _EARLIEST <= int(year) <= _LATEST:
        return None
    try:
        return date(int(year), int(month), int(day))
    except ValueError:
        return None


def _unaccented(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.lower().replace("º", "°"))
    return "".join(char for char in decomposed if not unicodedata.combining(char))
