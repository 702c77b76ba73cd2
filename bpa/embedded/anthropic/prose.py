"""Read an invoice that comes as plain text, in English, German, Spanish or French. Pure.

Every value is a quote: it stands in the text letter for letter. Wide layouts put two columns on
a line; a run of three blanks parts them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from bpa.embedded.anthropic.facts import CREDIT_WORDS, INVOICE_WORDS, Facts, lowered

_SELLER = re.compile(
    r"^\W*(?:from|seller|vendor|supplier|issued\s+by|issuer|billed\s+by|bill\s+from|sold\s+by"
    r"|remit\s+to|verkäufer|verkaeufer|rechnungssteller|lieferant|absender|von|aussteller"
    r"|proveedor|emisor|vendedor|emitido\s+por|de|fournisseur|émetteur|emetteur|vendeur"
    r"|fornitore|leverancier)"
    r"(?:\s?/\s?[\w ]{1,30})?(?:\s(?:name|nombre|nom))?\s{0,20}(?::|\uff1a|$)\s*(?P<rest>.*)$",
    re.IGNORECASE,
)
_BUYER = re.compile(
    r"^\W*(?:to|bill(?:ed)?\s+to|sold\s+to|ship\s+to|buyer|customer|client|an|kunde"
    r"|käufer[\w/ ]{0,40}|kaeufer[\w/ ]{0,40}|rechnungsempfänger|empfänger|cliente|comprador|para"
    r"|facturar\s+a|facturado\s+a|destinatario|acheteur|facturé\s+à|destinataire|client[\w ]{0,20})"
    r"\s{0,20}(?::|$)",
    re.IGNORECASE,
)
_SUBLABEL = re.compile(r"^(?:name|nombre|nom|firma|company)\s*:\s*", re.IGNORECASE)
_LABELLED = re.compile(r"^[^:]{1,40}:(?:\s|$)")
_LEGAL_FORM = re.compile(
    r"\b(?:GmbH|GMBH|LTD|LIMITED|INC|CORP|AG|KG|OHG|UG|e\.K\.|Ltd\.?|Limited|LLC|LLP|PLC|plc|Inc\.?|Corp\.?|Corporation"
    r"|Pty|S\.?L\.?U?\.?|S\.A\.?|SARL|S\.à\s?r\.l\.|SAS|SASU|EURL|SA|B\.V\.|BV|N\.V\.|NV|AB"
    r"|Oy|ApS|A/S|SpA|S\.p\.A\.|S\.r\.l\.|SRL|Co\.|& Co)(?!\w)"
)
_NUMBER_LABEL = (
    r"(?:no\.?|nr\.?|n\.?[ \t]?[º°o]\.?|num(?:ber|ero|éro)?\.?|número|numéro|nummer|#|id)(?!\w)"
)
_DOCUMENT = (
    r"(?:tax\s+invoice|invoice|credit\s+(?:note|memo)|rechnung\w{0,15}|gutschrifts?|beleg"
    r"|facture(?:\s+d['\u2019]avoir)?|avoir|factura(?:\s+rectificativa)?|abono"
    r"|nota\s+de\s+cr[eé]dito|note\s+de\s+crédit|document|fattura|factuur|creditnota)"
)
_CODE = r"(?P<quote>[a-z0-9][a-z0-9./_-]{0,40}\d[a-z0-9./_-]{0,40})"
_ID = (
    re.compile(
        rf"{_DOCUMENT}[ \t]*[-.)]?[ \t]*(?:de[ \t]+\w+[ \t]+)?{_NUMBER_LABEL}"
        rf"[ \t]*[:.]?[ \t]*{_CODE}",
    ),
    re.compile(
        r"(?:rechnungs|gutschrift|gutschrifts|beleg|factuur|dokument)-?"
        rf"(?:nummer|nr)\.?[ \t]*:?[ \t]*{_CODE}",
    ),
    re.compile(
        rf"\b(?:n[úu]mero|num[ée]ro|n\.?[ \t]?[º°]|no\.)[ \t]*(?:(?:de|of)[ \t]+(?:la[ \t]+)?)?"
        rf"(?:{_DOCUMENT})?[ \t]*[:.]?[ \t]*{_CODE}",
    ),
    re.compile(rf"{_DOCUMENT}[ \t]*[:#]?[ \t]*{_CODE}"),
    re.compile(
        rf"^\W*(?:number|nummer|nr|invoice_id|id|ref(?:erence)?)\.?[ \t]*:[ \t]*{_CODE}",
        re.MULTILINE,
    ),
)
_MONEY = re.compile(r"[-\u2212]?\d+(?:(?:[.,'\u2019]|[ \u00a0\u202f](?=\d{3}(?!\d)))\d+)*")
_TOTALS = (
    re.compile(
        r"(?:grand\s+total|invoice\s+total|credit\s+total|total\s+(?:amount|incl\w*\.?|inc\.?)"
        r"|gesamtbetrag|rechnungsbetrag|rechnungssumme|gesamtsumme|bruttobetrag|bruttosumme"
        r"|endbetrag|gutschriftbetrag|gutschriftsbetrag|total\s+ttc|montant\s+(?:total|ttc)"
        r"|importe\s+total|total\s+(?:factura|con\s+iva|iva\s+incluido|abono)|totaalbedrag)",
    ),
    re.compile(
        r"(?:amount\s+(?:due|payable)|total\s+(?:due|payable|a\s+pagar)|zahlbetrag"
        r"|zu\s+zahlen\w*|balance\s+due|net\s+à\s+payer|total\s+à\s+payer|te\s+betalen)",
    ),
    re.compile(r"(?<![\w-])(?:total|gesamt|summe|brutto|montant|importe|totaal|amount)\b"),
)
_NOT_TOTAL = re.compile(
    r"\b(?:sub-?\s?total|subtotal|zwischensumme|net|netto\w*|ht|base|tax|vat|mwst|ust|iva|tva)\b",
)
_NET = re.compile(r"\s*(?:net\b|netto|ht\b|base|ex)")
_ISO = (
    "EUR|USD|GBP|CHF|AUD|CAD|NZD|JPY|SEK|NOK|DKK|PLN|CZK|HUF|MXN|BRL|ARS|CLP|COP|INR|CNY|SGD"
    "|HKD|ZAR|TRY|RON|ILS|AED|KRW"
)
_CURRENCY_LABEL = re.compile(
    rf"(?:währung|currency|devise|moneda|divisa|valuta)\b\W{{0,20}}(?P<quote>{_ISO.lower()})\b",
)
_CURRENCY = re.compile(rf"(?<![A-Za-z])(?:{_ISO})(?![A-Za-z])|US\$|A\$|C\$|[€£¥$]|\bFr\.")
_MONTH = (
    r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|mär|mai|okt|dez|ene|abr|ago|dic|fév|fev"
    r"|avr|jui|aoû|aou|déc)[a-zéûä]*\.?"
)
_DATE_SHAPE = (
    r"(?P<quote>\d{4}-\d{2}-\d{2}|\d{4}/\d{2}/\d{2}|\d{1,2}[./-]\d{1,2}[./-]\d{2,4}"
    rf"|\d{{1,2}}(?:\.|st|nd|rd|th|er)?\s+(?:de\s+)?{_MONTH}(?:\s+de)?,?\s+\d{{4}}"
    rf"|{_MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?,?\s+\d{{4}})"
)
_DATES = (
    re.compile(
        r"(?:invoice\s+date|credit\s+note\s+date|date\s+of\s+issue|issue\s+date|issued(?:\s+on)?"
        r"|issued_on|date\s+issued|rechnungsdatum|ausstellungsdatum|ausgestellt\s+am|belegdatum"
        r"|gutschriftsdatum|date\s+(?:de\s+(?:la\s+)?facture|d['\u2019](?:émission|emission|avoir))"
        r"|fecha\s+(?:de\s+)?(?:emisi[oó]n|factura|expedici[oó]n|la\s+factura)|factuurdatum)"
        rf"\W{{0,60}}?{_DATE_SHAPE}",
    ),
    re.compile(rf"{_DOCUMENT}[^\n]{{0,60}}\s+(?:vom|dated|del|du)\s+{_DATE_SHAPE}"),
    re.compile(
        rf"^\W*(?:date|datum|fecha|dated|le|data)\b\W{{0,20}}{_DATE_SHAPE}",
        re.MULTILINE,
    ),
    re.compile(rf"\b(?:vom|dated|del|du|date|datum|fecha)\b\W{{0,20}}{_DATE_SHAPE}"),
    re.compile(_DATE_SHAPE),
)
_SELF_BILLED = re.compile(r"selbst\s+ausgestellte|self-?\s?billed")
_LETTERHEAD_LINES = 12
_BUYER_BLOCK_LINES = 4


def read_prose(text: str) -> Facts:
    """Return the facts of a text document; each value is a verbatim quote."""
    lines, low = text.splitlines(), lowered(text)
    kind, is_credit = _kind(text, low)
    total, total_line = _total(lines)
    return Facts(
        vendor=_vendor(lines),
        invoice_id=_quote(_ID, text, low),
        total=total,
        currency=_currency(text, low, total_line),
        issued_on=_quote(_DATES, text, low),
        kind=kind,
        words="\n".join(_without_buyer(lines)),
        is_credit=is_credit,
    )


def _quote(patterns: tuple[re.Pattern[str], ...], text: str, low: str) -> str | None:
    """Return what ``text`` holds where the first pattern that fits found its quote."""
    for pattern in patterns:
        found = pattern.search(low)
        if found:
            return text[slice(*found.span("quote"))].rstrip(".,-/")
    return None


def _vendor(lines: list[str]) -> str | None:
    for index, line in enumerate(lines):
        found = _SELLER.match(line.strip())
        if found is None:
            continue
        rest = _column(_SUBLABEL.sub("", found["rest"]))
        if rest and not _has_only_digits(rest):
            return rest
        below = _below(lines[index + 1 :])
        if below and not found["rest"]:
            return below
    return _letterhead(lines)


def _below(lines: list[str]) -> str | None:
    """Return the first line under a heading that is a name, not a number or a labelled field."""
    for line in lines[:5]:
        plain = _SUBLABEL.sub("", line.strip())
        if plain and not re.match(r"^[^:]{1,40}\s*:\s", plain + " "):
            return _column(plain)
    return None


def _letterhead(lines: list[str]) -> str | None:
    names = list(_names(lines[:_LETTERHEAD_LINES]))
    for name in names:
        if _LEGAL_FORM.search(name):
            return name
    return names[0] if names else None


def _names(lines: list[str]) -> Iterator[str]:
    for line in lines:
        plain = line.strip()
        if _BUYER.match(plain):
            return
        for column in re.split(r"\s{3,}|\s+[|·•\u2013\u2014]\s+|\s-\s", plain):
            if re.search(r"[^\W\d_]{2}", column) and not _is_other(column):
                yield column.strip(" *#=_~")


def _is_other(column: str) -> bool:
    """Say whether a piece of the letterhead is a title, a labelled field, a date or a sentence."""
    low = lowered(column)
    return bool(
        INVOICE_WORDS.search(low)
        or CREDIT_WORDS.search(low)
        or _LABELLED.match(column)
        or _DATES[-1].search(low)
        or (column.endswith(".") and not _LEGAL_FORM.search(column))
    )


def _column(text: str) -> str:
    return re.split(r"\s{3,}|\t", text.strip(), maxsplit=1)[0].strip(" *_")


def _has_only_digits(text: str) -> bool:
    return not re.search(r"[^\W\d_]{2}", text)


def _total(lines: list[str]) -> tuple[str | None, str]:
    """Return the total and the line it stands on; the lowest line with the best label."""
    lows = [lowered(line) for line in lines]
    for pattern in _TOTALS:
        for line, low in zip(reversed(lines), reversed(lows), strict=True):
            found = pattern.search(low)
            if found is None or _NOT_TOTAL.search(low[: found.start()]):
                continue
            if pattern is _TOTALS[-1] and _NET.match(low, found.end()):
                continue
            rest = line[found.end() :]
            quotes = [quote for quote in _MONEY.findall(rest) if not _is_percent(rest, quote)]
            if quotes:
                return quotes[-1], line
    return None, ""


def _is_percent(rest: str, quote: str) -> bool:
    return rest[rest.find(quote) + len(quote) :].lstrip().startswith("%")


def _currency(text: str, low: str, total_line: str) -> str | None:
    labelled = _quote((_CURRENCY_LABEL,), text, low)
    if labelled:
        return labelled
    for place in (total_line, text):
        quotes: list[str] = _CURRENCY.findall(place)
        if quotes:
            return next((quote for quote in quotes if quote.isalpha()), quotes[-1])
    return None


def _kind(text: str, low: str) -> tuple[str | None, bool]:
    """Return the word that names the document, and whether it is a credit note.

    The title decides: whichever word comes first, unless the credit word stands in a sentence
    about something else below the head of the document.
    """
    invoice = INVOICE_WORDS.search(low)
    credit = next((hit for hit in CREDIT_WORDS.finditer(low) if _begins_word(low, hit)), None)
    head = max(400, len(text) // 4)
    if credit and credit.start() < head and not _SELF_BILLED.search(low, 0, head):
        before = invoice is None or credit.start() <= invoice.start()
        if before or _is_heading(text, credit):
            return text[slice(*credit.span())], True
    if invoice is None:
        return None, False
    start = invoice.start()
    while start > 0 and low[start - 1].isalpha():
        start -= 1
    return text[start : invoice.end()], False


def _begins_word(text: str, found: re.Match[str]) -> bool:
    return found.start() == 0 or not text[found.start() - 1].isalnum()


def _is_heading(text: str, found: re.Match[str]) -> bool:
    start = text.rfind("\n", 0, found.start()) + 1
    return not text[start : found.start()].strip(" *#=_-")


def _without_buyer(lines: list[str]) -> Iterator[str]:
    skip = 0
    for line in lines:
        plain = line.strip()
        if _BUYER.match(plain):
            skip = _BUYER_BLOCK_LINES
        if skip and plain:
            skip -= 1
            continue
        skip = 0
        yield plain
