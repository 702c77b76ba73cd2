"""Amounts as people write them, read exactly."""

from __future__ import annotations

import re
import unicodedata
from decimal import Context, Decimal

from bpa.documents.currencies import THREE_DECIMALS, currency_of

_MAX_WHOLE_DIGITS = 15
_MAX_DECIMALS = 8
_EXACT = Context(prec=_MAX_WHOLE_DIGITS + _MAX_DECIMALS + 2)

_AMOUNT = re.compile(
    r"(?P<open>\()?\s?(?P<sign>[-+])?\s?"
    r"(?P<before>[^\d\s()+'-][^\d()+]{0,24}?)??\s?(?P<inner>[-+])?\s?"
    r"(?P<number>[0-9](?:[0-9 .,']*[0-9])?)(?:[.,]-{1,2}|(?P<trailing>-))?"
    r"\s?(?P<after>[^\d\s()+'-][^\d()+]{0,24})?\s?(?P<close>\))?"
)
_GROUPED = tuple(
    (re.compile(rf"[1-9][0-9]{{0,2}}(?:{group}[0-9]{{3}})+(?:{point}[0-9]+)?"), group, point)
    for group, point in ((r"\.", ","), (",", r"\."), (" ", "[.,]"), ("'", "[.,]"))
)
_LAKHS = re.compile(r"[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3}(?:\.[0-9]+)?")
_PLAIN = re.compile(r"[0-9]+(?:[.,][0-9]+)?")
_THREE_DECIMALS = re.compile(r"[0-9]+[.,][0-9]{3}")
_XSD_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
# Minus sign and dashes for the hyphen; typographic quotes and accents for the apostrophe.
_LOOKALIKES = str.maketrans("\u2212\u2013\u2014\u2019\u2018\u00b4\u0060", "---''''")


def decimal_string(amount: Decimal) -> str | None:
    """Return ``amount`` as a plain decimal with its sign and two decimals or more.

    Nothing is rounded; None where it has more than 15 whole digits or 8 decimals that count.
    """
    if not amount.is_finite() or (amount and amount.adjusted() >= _MAX_WHOLE_DIGITS):
        return None
    if not amount:
        return "0.00"
    amount = amount.normalize(_EXACT) if len(amount.as_tuple().digits) <= 60 else amount
    exponent = amount.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -_MAX_DECIMALS:
        return None
    return f"{amount:.{max(2, -exponent)}f}"


def read_xsd_decimal(text: str) -> Decimal | None:
    """Read an amount in the lexical form of xsd:decimal, as UBL and CII write it."""
    text = text.strip()
    return Decimal(text) if len(text) <= 64 and _XSD_DECIMAL.fullmatch(text) else None


def read_amount(written: str, currency: str) -> Decimal | None:
    """Read an amount as it stands in prose, or return None.

    Accepts a sign before or after, parentheses for negative, a mark of ``currency`` on either side
    (of another one: None), grouping by point, comma, space or apostrophe, and Swiss ``120.-``.
    With one kind of separator that stands once before exactly three digits (``1.234``) it groups,
    unless the currency has three decimals or a zero leads (``0.234``).
    """
    text = unicodedata.normalize("NFKC", written).translate(_LOOKALIKES)
    found = _AMOUNT.fullmatch(" ".join(text.split()))
    if found is None or len(written) > 64 or bool(found["open"]) != bool(found["close"]):
        return None
    marks = [mark.strip() for mark in (found["before"], found["after"]) if mark]
    if any(currency_of(mark) != currency for mark in marks):
        return None
    signs = [sign for sign in (found["sign"], found["inner"], found["trailing"]) if sign]
    if len(signs) + bool(found["open"]) > 1:
        return None
    number = _plain(found["number"], currency)
    if number is None:
        return None
    return -Decimal(number) if found["open"] or "-" in signs else Decimal(number)


def _plain(number: str, currency: str) -> str | None:
    """Return ``number`` without grouping and with a point, or None where its groups are wrong."""
    if currency in THREE_DECIMALS and _THREE_DECIMALS.fullmatch(number):
        return number.replace(",", ".")
    for pattern, group, _point in _GROUPED:
        if pattern.fullmatch(number):
            return number.replace(group.removeprefix("\\"), "").replace(",", ".")
    if _LAKHS.fullmatch(number):
        return number.replace(",", "")
    return number.replace(",", ".") if _PLAIN.fullmatch(number) else None
