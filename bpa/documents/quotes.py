"""Values that a model points at in prose, taken only if they stand there.

A quote counts where it stands in the document verbatim (any run of whitespace for any other) and as
a whole token: no part of a longer number, identifier or word, and never without its minus sign.
What it means is then read by code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from bpa.documents.amounts import decimal_string, read_amount
from bpa.documents.characters import one_line
from bpa.documents.currencies import DOLLARS, currency_of
from bpa.documents.dates import read_date
from bpa.documents.values import INVOICE_ID_MAX_CHARS, Document, Fields, Kind, violated

QUOTE_MAX_CHARS = INVOICE_ID_MAX_CHARS
_CONTEXT_CHARS = 12

_CREDIT_WORDS = re.compile(
    r"credit[\s-]?(?:note|memo|invoice)|refund|gutschrift|rechnungskorrektur|korrekturrechnung"
    r"|storno|note\s+de\s+cr[eé]dit|avoir|(?:nota|factura)\s+de\s+(?:cr[eé]dito|abono)|abono"
    r"|rectificativa|nota\s+di\s+credito|creditnota|creditfactuur",
    re.IGNORECASE,
)

_ID_BEFORE = re.compile(r"(?:\w|\w[-/]|[0-9]\.)$")
_ID_AFTER = re.compile(r"\w|[-/]\w|\.\w")
_DATE_BEFORE = re.compile(r"(?:\w|[0-9][./-])$")
_DATE_AFTER = re.compile(r"(?!T[0-9]{2}:)(?:\w|[./-][0-9])")
_MARK_BEFORE = re.compile(r"[^\W\d_]$")
_MARK_AFTER = re.compile(r"[^\W\d_]")

_CODE = re.compile(r"(?<![^\W\d_])[A-Z]{3}(?![^\W\d_])")
_GLUED_MARK_BEFORE = re.compile(r"(?:(?<![^\W\d_])[A-Z]{3}|[€£$])\s?$")
_GLUED_MARK_AFTER = re.compile(r"\s?(?:[A-Z]{3}(?![^\W\d_])|[€£$])")
_AMOUNT_BEFORE = re.compile(r"(?:\w|[0-9][.,'\u2019]|[-\u2212\u2013])$")
_AMOUNT_AFTER = re.compile(r"\w|[.,'\u2019][0-9]|[-\u2212\u2013](?!\w)|\s?%")
_GROUP = re.compile(r"[0-9]{3}(?![0-9])")
_WHOLE = re.compile(r"[0-9 ]+")
_GROUP_BEFORE = re.compile(r"[0-9][ \u00a0\u2009\u202f]$")
_GROUP_AFTER = re.compile(r"[ \u00a0\u2009\u202f][0-9]{3}(?![0-9])")


def quoted_fields(document: Document, quotes: Mapping[str, str]) -> Fields:
    """Take the fields of a document that code cannot read from a model's verbatim quotes.

    Args:
        document: Prose, or another dialect.
        quotes: ``invoice_id``, ``total``, ``currency`` and ``issued_on`` exactly as they stand in
            the document, and ``kind``, which is ``invoice`` or ``credit_note``.

    ``credit_note`` is believed only of a document that uses a word for one. ``12/03/2026`` is read
    with the day first, in a document in US dollars with the month first. A bare ``$`` is the US
    dollar, unless the document names another dollar and not that one.

    Raises:
        RunEnded: ``SchemaValidationFailed`` naming the field, never its value.
    """
    text = document.text
    invoice_id = _quoted(text, quotes, "invoice_id", _id_stands)
    currency = _currency(text, _quoted(text, quotes, "currency", _mark_stands))
    amount = read_amount(_quoted(text, quotes, "total", _amount_stands), currency)
    total = None if amount is None else decimal_string(amount)
    if total is None:
        raise violated("total: the quoted value is not an amount in the quoted currency")
    written = _quoted(text, quotes, "issued_on", _date_stands)
    issued_on = read_date(written, month_first=currency == "USD")
    if issued_on is None:
        raise violated("issued_on: the quoted value is not a date that can be read")
    return Fields(
        invoice_id=invoice_id,
        vendor=None,
        currency=currency,
        total=total,
        issued_on=issued_on.isoformat(),
        kind=_kind(text, quotes.get("kind")),
    )


def _quoted(
    text: str, quotes: Mapping[str, str], name: str, stands: Callable[[str, str, str], bool]
) -> str:
    quote = one_line(quotes.get(name, ""))
    if not 0 < len(quote) <= QUOTE_MAX_CHARS:
        raise violated(f"{name}: a quote of 1 to {QUOTE_MAX_CHARS} characters is needed")
    if not any(stands(quote, before, after) for before, after in _places(text, quote)):
        raise violated(f"{name}: the quoted value does not stand in the document")
    return quote


def _places(text: str, quote: str) -> Iterator[tuple[str, str]]:
    """Yield what stands right before and right after each place of ``quote`` in ``text``."""
    pattern = r"\s+".join(re.escape(word) for word in quote.split())
    for found in re.finditer(pattern, text):
        start, end = found.span()
        yield text[max(0, start - _CONTEXT_CHARS) : start], text[end : end + _CONTEXT_CHARS]


def _id_stands(_quote: str, before: str, after: str) -> bool:
    return not _ID_BEFORE.search(before) and not _ID_AFTER.match(after)


def _date_stands(_quote: str, before: str, after: str) -> bool:
    return not _DATE_BEFORE.search(before) and not _DATE_AFTER.match(after)


def _mark_stands(quote: str, before: str, after: str) -> bool:
    """Judge a currency's code or symbol, which may touch digits but no letters."""
    is_word = quote[-1].isalpha()
    return not _MARK_BEFORE.search(before) and not (is_word and _MARK_AFTER.match(after))


def _amount_stands(quote: str, before: str, after: str) -> bool:
    """Judge an amount; a currency that touches it may stand outside the quote, a sign may not."""
    if _GROUP.match(quote) and _GROUP_BEFORE.search(before):
        return False
    if _WHOLE.fullmatch(quote) and _GROUP_AFTER.match(after):
        return False
    if before.endswith("(") and after.startswith(")"):
        return False
    before = _GLUED_MARK_BEFORE.sub("", before)
    after = _GLUED_MARK_AFTER.sub("", after, count=1) if _GLUED_MARK_AFTER.match(after) else after
    return not _AMOUNT_BEFORE.search(before) and not _AMOUNT_AFTER.match(after)


def _currency(text: str, quote: str) -> str:
    code = currency_of(quote)
    if code is None:
        raise violated("currency: the quoted value names no single currency")
    if quote == "$":
        named = set(_CODE.findall(text))
        if "USD" not in named and named & DOLLARS:
            raise violated("currency: the document names another dollar; its code is needed")
    return code


def _kind(text: str, kind: str | None) -> Kind:
    if kind == "invoice":
        return "invoice"
    if kind != "credit_note":
        raise violated("kind: must be invoice or credit_note")
    if not _CREDIT_WORDS.search(text):
        raise violated("kind: the document does not say that it is a credit note")
    return "credit_note"
