"""Fields from a structured document, with the same checks whatever the dialect."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from decimal import Decimal

from bpa.documents.amounts import decimal_string
from bpa.documents.characters import one_line
from bpa.documents.currencies import CODES
from bpa.documents.values import (
    INVOICE_ID_MAX_CHARS,
    VENDOR_MAX_CHARS,
    Fields,
    Kind,
    malformed,
)

_XSD_DATE = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:Z|[+-][0-9]{2}:[0-9]{2})?")

# UNTDID 1001 codes that EN 16931's rule BR-CL-01 counts as credit notes.
_CREDIT_NOTES = "81 83 261 262 296 308 381 396 420 458 502 503 532"
CREDIT_NOTE_CODES = frozenset(_CREDIT_NOTES.split())


def read_iso_date(text: str) -> date | None:
    """Read an xsd:date, its zone left aside: the date is the one on the document."""
    found = _XSD_DATE.fullmatch(text.strip())
    if found is None:
        return None
    try:
        return date.fromisoformat(found[1])
    except ValueError:
        return None


def checked_fields(
    names: Mapping[str, str],
    *,
    invoice_id: str | None,
    vendor: str | None,
    currency: str | None,
    total: Decimal | None,
    issued_on: date | None,
    kind: Kind,
) -> Fields:
    """Make Fields, or refuse with the place at fault.

    Args:
        names: What the dialect calls each field, for the operator.
        invoice_id: As read; like the others None where it is absent or unreadable.
        vendor: The seller, which may be absent.
        currency: A code.
        total: The amount with tax.
        issued_on: The date on the document.
        kind: Invoice or credit note.

    Raises:
        RunEnded: ``DeserializationError``.
    """
    clean_id = one_line(invoice_id or "")
    clean_vendor = one_line(vendor or "") or None
    written_total = None if total is None else decimal_string(total)
    if not 0 < len(clean_id) <= INVOICE_ID_MAX_CHARS:
        raise malformed(f"{names['invoice_id']}: needed, 1 to {INVOICE_ID_MAX_CHARS} characters")
    if clean_vendor is not None and len(clean_vendor) > VENDOR_MAX_CHARS:
        raise malformed(f"{names['vendor']}: at most {VENDOR_MAX_CHARS} characters")
    if currency not in CODES:
        raise malformed(f"{names['currency']}: needed, an ISO 4217 code")
    if written_total is None:
        raise malformed(f"{names['total']}: needed, an amount")
    if issued_on is None:
        raise malformed(f"{names['issued_on']}: needed, a date")
    return Fields(
        invoice_id=clean_id,
        vendor=clean_vendor,
        currency=currency,
        total=written_total,
        issued_on=issued_on.isoformat(),
        kind=kind,
    )
