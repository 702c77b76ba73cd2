"""How numbers, amounts, times and names read, on a page and in a terminal alike. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from urllib.parse import quote


def span(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    if seconds < 0.9995:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    for unit, size, until in (("s", 1, 120), ("min", 60, 7_200), ("h", 3_600, 172_800)):
        if seconds < until:
            number = seconds / size
            digits = f"{number:.1f}".removesuffix(".0") if number < 10 else f"{number:.0f}"
            return f"{digits} {unit}"
    return f"{seconds / 86_400:.0f} d"


def clock(at: datetime) -> str:
    """Return a time of day that can be compared with logs and other people's screens."""
    return f"{at.astimezone(UTC):%H:%M:%S} UTC"


def usd(amount: str | Decimal) -> str:
    """Return an amount of USD: cents where that says enough, else digits that say something."""
    try:
        exactly = Decimal(amount)
    except InvalidOperation:
        return str(amount)
    if exactly == 0 or exactly >= 1:
        return f"{exactly:,.2f}"
    for least, digits in (("0.01", 4), ("0.0001", 5), ("0.000001", 7)):
        if exactly >= Decimal(least):
            return f"{exactly:.{digits}f}"
    return f"{exactly:.2g}"


def usd_exactly(text: str) -> str:
    """Return an amount of USD to its last digit, without the zeros that say nothing."""
    whole, point, fraction = text.partition(".")
    fraction = fraction.rstrip("0")
    return f"{whole}.{fraction:<02}" if point and fraction else whole


def segment(name: str) -> str:
    """Return a name as one segment of a path, whatever stands in it."""
    return quote(name, safe="")
