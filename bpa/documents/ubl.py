"""UBL 2.1 Invoice and CreditNote (OASIS), with the business terms of EN 16931.

- number BT-1 ``cbc:ID``, date BT-2 ``cbc:IssueDate``, currency BT-5 ``cbc:DocumentCurrencyCode``
- total: ``cbc:TaxInclusiveAmount`` (BT-112, what the invoice is worth), and only where it is absent
  ``cbc:PayableAmount`` (BT-115, which prepayments and rounding have changed)
- seller: ``cac:PartyLegalEntity/cbc:RegistrationName`` (BT-27), else ``cac:PartyName`` (BT-28, the
  name it trades under), else the contact's name
- kind: the CreditNote document, or an InvoiceTypeCode that EN 16931 counts as a credit note. The
  sign of the amounts stays as written.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element

from bpa.documents.amounts import read_xsd_decimal
from bpa.documents.structured import CREDIT_NOTE_CODES, checked_fields, read_iso_date
from bpa.documents.summary import Details, Line, summarise
from bpa.documents.values import Document

_SCHEMA = "urn:oasis:names:specification:ubl:schema:xsd:"
INVOICE = f"{{{_SCHEMA}Invoice-2}}Invoice"
CREDIT_NOTE = f"{{{_SCHEMA}CreditNote-2}}CreditNote"
_PREFIXES = {
    "cac": f"{_SCHEMA}CommonAggregateComponents-2",
    "cbc": f"{_SCHEMA}CommonBasicComponents-2",
}
_NAMES = {
    "invoice_id": "cbc:ID",
    "vendor": "cac:AccountingSupplierParty",
    "currency": "cbc:DocumentCurrencyCode",
    "total": "cac:LegalMonetaryTotal/cbc:TaxInclusiveAmount",
    "issued_on": "cbc:IssueDate",
}
_PARTY_NAMES = (
    "cac:PartyLegalEntity/cbc:RegistrationName",
    "cac:PartyName/cbc:Name",
    "cac:Contact/cbc:Name",
)


def read(root: Element) -> Document:
    """Read a UBL Invoice or CreditNote.

    Raises:
        RunEnded: ``DeserializationError`` naming the element.
    """
    currency = (_text(root, "cbc:DocumentCurrencyCode") or "").strip()
    codes = (_text(root, "cbc:InvoiceTypeCode"), _text(root, "cbc:CreditNoteTypeCode"))
    is_credit = root.tag == CREDIT_NOTE or any(
        (c or "").strip() in CREDIT_NOTE_CODES for c in codes
    )
    totals = "cac:LegalMonetaryTotal/cbc:"
    total = _text(root, f"{totals}TaxInclusiveAmount", f"{totals}PayableAmount")
    fields = checked_fields(
        _NAMES,
        invoice_id=_text(root, "cbc:ID"),
        vendor=_party(root, "cac:AccountingSupplierParty"),
        currency=currency,
        total=read_xsd_decimal(total or ""),
        issued_on=read_iso_date(_text(root, "cbc:IssueDate") or ""),
        kind="credit_note" if is_credit else "invoice",
    )
    details = Details(
        buyer=_party(root, "cac:AccountingCustomerParty"),
        due_on=_text(root, "cbc:DueDate", "cac:PaymentMeans/cbc:PaymentDueDate"),
        subtotal=_text(root, f"{totals}TaxExclusiveAmount", f"{totals}LineExtensionAmount"),
        tax=_tax(root, currency),
        note=_text(root, "cbc:Note"),
        lines=_lines(root),
    )
    return Document("ubl", summarise(fields, details), fields)


def _text(element: Element, *paths: str) -> str | None:
    """Return the text of the first path that has some."""
    for path in paths:
        text = element.findtext(path, None, _PREFIXES)
        if text is not None and text.strip():
            return text
    return None


def _party(root: Element, role: str) -> str | None:
    party = root.find(f"{role}/cac:Party", _PREFIXES)
    return None if party is None else _text(party, *_PARTY_NAMES)


def _tax(root: Element, currency: str) -> str | None:
    """Return the tax total in the document's currency (BT-110; BT-111 is in another)."""
    for amount in root.iterfind("cac:TaxTotal/cbc:TaxAmount", _PREFIXES):
        if amount.get("currencyID", currency) == currency:
            return amount.text
    return None


def _lines(root: Element) -> tuple[Line, ...]:
    elements = [
        *root.iterfind("cac:InvoiceLine", _PREFIXES),
        *root.iterfind("cac:CreditNoteLine", _PREFIXES),
    ]
    return tuple(
        Line(
            _text(line, "cac:Item/cbc:Name", "cac:Item/cbc:Description", "cbc:Note") or "",
            _text(line, "cbc:InvoicedQuantity", "cbc:CreditedQuantity"),
            _text(line, "cbc:LineExtensionAmount"),
        )
        for line in elements
    )
