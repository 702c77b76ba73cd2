import json

import pytest

from bpa.documents.decoding import decode
from bpa.documents.summary import MAX_CHARS, Details, Line, summarise
from bpa.documents.values import Fields
from tests.unit.documents.samples import as_json, cii, ubl

XML = "application/xml"


def fields(body: bytes) -> Fields:
    found = decode(body, XML).fields
    assert found is not None
    return found


def test_a_ubl_invoice_is_read_by_code():
    document = decode(ubl(), XML)
    assert document.dialect == "ubl"
    assert document.fields == Fields("U-1", "Nordbyte", "EUR", "1234.50", "2026-03-12", "invoice")
    line = {"description": "Trennblätter", "quantity": "2", "amount": "10"}
    assert json.loads(document.text)["lines"] == [line]


def test_a_ubl_credit_note_is_known_by_its_document_or_its_type_code():
    assert fields(ubl(root="CreditNote")).kind == "credit_note"
    head = "<cbc:InvoiceTypeCode> 381 </cbc:InvoiceTypeCode>"
    assert fields(ubl(head=head)).kind == "credit_note"
    assert fields(ubl(head="<cbc:InvoiceTypeCode>384</cbc:InvoiceTypeCode>")).kind == "invoice"


def test_the_ubl_total_is_with_tax_and_what_is_payable_only_without_it():
    payable = "<cbc:PayableAmount>7.00</cbc:PayableAmount>"
    inclusive = "<cbc:TaxInclusiveAmount>-12.30</cbc:TaxInclusiveAmount>"
    assert fields(ubl(totals=payable + inclusive)).total == "-12.30"
    assert fields(ubl(totals=payable)).total == "7.00"


def test_the_ubl_seller_is_the_registered_name_then_the_trading_name():
    trading = "<cac:PartyName><cbc:Name>Trading</cbc:Name></cac:PartyName>"
    legal = (
        "<cac:PartyLegalEntity><cbc:RegistrationName>\n Legal  AG </cbc:RegistrationName>"
        "</cac:PartyLegalEntity>"
    )
    assert fields(ubl(party=trading + legal)).vendor == "Legal AG"
    assert fields(ubl(party=trading)).vendor == "Trading"
    assert fields(ubl(party="")).vendor is None


def test_a_cii_invoice_is_read_by_code():
    document = decode(cii(), XML)
    assert document.dialect == "cii"
    assert document.fields == Fields(
        "C-1", "Nordbyte GmbH", "EUR", "-8.79", "2026-03-12", "invoice"
    )
    assert fields(cii(code="381")).kind == "credit_note"


def test_the_cii_total_is_the_grand_total_in_the_invoice_currency():
    due = "<ram:DuePayableAmount>470.15</ram:DuePayableAmount>"
    grand = '<ram:GrandTotalAmount currencyID="EUR">671.15</ram:GrandTotalAmount>'
    foreign = '<ram:GrandTotalAmount currencyID="SEK">7000</ram:GrandTotalAmount>'
    assert fields(cii(totals=foreign + grand + due)).total == "671.15"
    assert fields(cii(totals=due)).total == "470.15"


@pytest.mark.parametrize("body", [ubl(), ubl(root="CreditNote"), cii(), cii(code="381")])
def test_the_prefixes_of_namespaces_do_not_matter(body):
    renamed = body
    for prefix in ("cbc", "cac", "ram", "rsm", "udt"):
        renamed = renamed.replace(f"{prefix}:".encode(), f"x{prefix}:".encode())
        renamed = renamed.replace(f"xmlns:{prefix}=".encode(), f"xmlns:x{prefix}=".encode())
    renamed = renamed.replace(
        b"urn:un:unece:uncefact:data:standard:x", b"urn:un:unece:uncefact:data:standard:"
    )
    assert renamed != body
    assert decode(renamed, XML) == decode(body, XML)


def test_a_summary_stays_small_and_counts_the_lines_it_leaves_out():
    known = Fields("1", "V" * 200, "EUR", "1.00", "2026-01-01", "invoice")
    lines = tuple(Line("ü" * 500, "1" * 500, "2" * 500) for _ in range(300))
    text = summarise(known, Details(buyer="B" * 900, note="N" * 9000, lines=lines))
    shown = json.loads(text)
    assert len(text) <= MAX_CHARS
    assert shown["lines"]
    assert shown["lines_left_out"] == 300 - len(shown["lines"])


def test_a_summary_of_few_lines_leaves_nothing_out():
    shown = json.loads(decode(as_json(), None).text)
    assert "lines_left_out" not in shown
    assert list(shown)[:3] == ["kind", "invoice_id", "issued_on"]
