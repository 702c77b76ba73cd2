"""UN/CEFACT Cross Industry Invoice D16B (Factur-X, ZUGFeRD 2, XRechnung), terms of EN 16931.

- number BT-1 ``ram:ID``, date BT-2 in format 102 (YYYYMMDD), currency BT-5
- total: ``ram:GrandTotalAmount`` (BT-112) in the invoice's currency, and only where it is absent
  ``ram:DuePayableAmount`` (BT-115)
- seller: ``ram:SellerTradeParty/ram:Name`` (BT-27), else its trading name (BT-28)
- kind: ``ram:TypeCode`` 381 and the other codes that EN 16931 counts as credit notes. The sign of
  the amounts stays as written.
"""

from __future__ import annotations

from datetime import date
from xml.etree.ElementTree import Element

from bpa.documents.amounts import read_xsd_decimal
from bpa.documents.structured import CREDIT_NOTE_CODES, checked_fields, read_iso_date
from bpa.documents.summary import Details, Line, summarise
from bpa.documents.values import Document

_STANDARD = "urn:un:unece:uncefact:data:standard:"
ROOT = f"{{{_STANDARD}CrossIndustryInvoice:100}}CrossIndustryInvoice"
_PREFIXES = {
    "rsm": f"{_STANDARD}CrossIndustryInvoice:100",
    "ram": f"{_STANDARD}ReusableAggregateBusinessInformationEntity:100",
    "udt": f"{_STANDARD}UnqualifiedDataType:100",
}
_DOCUMENT = "rsm:ExchangedDocument"
_TRADE = "rsm:SupplyChainTradeTransaction"
_AGREEMENT = f"{_TRADE}/ram:ApplicableHeaderTradeAgreement"
_SETTLEMENT = f"{_TRADE}/ram:ApplicableHeaderTradeSettlement"
_TOTALS = f"{_SETTLEMENT}/ram:SpecifiedTradeSettlementHeaderMonetarySummation"
_NAMES = {
    "invoice_id": "rsm:ExchangedDocument/ram:ID",
    "vendor": "ram:SellerTradeParty",
    "currency": "ram:InvoiceCurrencyCode",
    "total": "ram:GrandTotalAmount",
    "issued_on": "rsm:ExchangedDocument/ram:IssueDateTime (format 102)",
}
_LINE_TOTAL = (
    "ram:SpecifiedLineTradeSettlement/"
    "ram:SpecifiedTradeSettlementLineMonetarySummation/ram:LineTotalAmount"
)


def read(root: Element) -> Document:
    """Read a Cross Industry Invoice.

    Raises:
        RunEnded: ``DeserializationError`` naming the element.
    """
    currency = (_text(root, f"{_SETTLEMENT}/ram:InvoiceCurrencyCode") or "").strip()
    code = (_text(root, f"{_DOCUMENT}/ram:TypeCode") or "").strip()
    total = _amount(root, "GrandTotalAmount", currency) or _amount(
        root, "DuePayableAmount", currency
    )
    issued_on = _date(root, f"{_DOCUMENT}/ram:IssueDateTime/udt:DateTimeString")
    fields = checked_fields(
        _NAMES,
        invoice_id=_text(root, f"{_DOCUMENT}/ram:ID"),
        vendor=_party(root, "SellerTradeParty"),
        currency=currency,
        total=read_xsd_decimal(total or ""),
        issued_on=issued_on,
        kind="credit_note" if code in CREDIT_NOTE_CODES else "invoice",
    )
    due = f"{_SETTLEMENT}/ram:SpecifiedTradePaymentTerms/ram:DueDateDateTime/udt:DateTimeString"
    due_on = _date(root, due)
    details = Details(
        buyer=_party(root, "BuyerTradeParty"),
        due_on=due_on.isoformat() if due_on else None,
        subtotal=_amount(root, "TaxBasisTotalAmount", currency),
        tax=_amount(root, "TaxTotalAmount", currency),
        note=_text(root, f"{_DOCUMENT}/ram:IncludedNote/ram:Content"),
        lines=_lines(root),
    )
    return Document("cii", summarise(fields, details), fields)


def _text(element: Element, *paths: str) -> str | None:
    """Return the text of the first path that has some."""
    for path in paths:
        text = element.findtext(path, None, _PREFIXES)
        if text is not None and text.strip():
            return text
    return None


def _party(root: Element, role: str) -> str | None:
    party = f"{_AGREEMENT}/ram:{role}"
    return _text(
        root, f"{party}/ram:Name", f"{party}/ram:SpecifiedLegalOrganization/ram:TradingBusinessName"
    )


def _amount(root: Element, name: str, currency: str) -> str | None:
    """Return a total in the invoice's currency; EN 16931 also allows one in the tax currency."""
    for amount in root.iterfind(f"{_TOTALS}/ram:{name}", _PREFIXES):
        if amount.get("currencyID", currency) == currency and (amount.text or "").strip():
            return amount.text
    return None


def _date(root: Element, path: str) -> date | None:
    element = root.find(path, _PREFIXES)
    text = "" if element is None else (element.text or "").strip()
    if element is None or element.get("format", "102") != "102" or len(text) != 8:
        return None
    return read_iso_date(f"{text[:4]}-{text[4:6]}-{text[6:]}")


def _lines(root: Element) -> tuple[Line, ...]:
    product = "ram:SpecifiedTradeProduct/ram:"
    return tuple(
        Line(
            _text(line, f"{product}Name", f"{product}Description") or "",
            _text(line, "ram:SpecifiedLineTradeDelivery/ram:BilledQuantity"),
            _text(line, _LINE_TOTAL),
        )
        for line in root.iterfind(f"{_TRADE}/ram:IncludedSupplyChainTradeLineItem", _PREFIXES)
    )
