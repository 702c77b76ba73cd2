"""What the stub reads out of a document, whatever its form and language."""

import json
import time

import pytest

from bpa.embedded.anthropic.documents import read_document
from bpa.embedded.anthropic.facts import amount

ENGLISH = """\
                         BRIGHTWATER FREIGHT LTD
                         12 Quay Street, Hull

INVOICE

Bill to:
  Contoso Legal Partners LLP
  1 High Street

Invoice no.: BF-2026/0117
Invoice date: 14 March 2026
Due date: 13 April 2026

Pallet haulage Hull - Leeds          2 x 310.00        620.00
Fuel surcharge                                          31.00

Subtotal                                               651.00
VAT 20%                                                130.20
Total                                              GBP 781.20
"""

GERMAN = """\
Rechnung Nr. RE-2026-0042 vom 03.02.2026

Verkäufer:
Nummer        : 549910
Rheinkraft Stadtwerke GmbH
Uferweg 7
DE 50667 Köln

Käufer:
Contoso Deutschland GmbH
Domplatz 1

Stromlieferung Januar 2026       4.120 kWh      1.236,00
Netzentgelt                                       310,50

Nettobetrag                                     1.546,50 EUR
19 % MwSt                                         293,84 EUR
Gesamtbetrag                                    1.840,34 EUR
"""

GERMAN_CREDIT = """\
Papierhaus Lindner KG
Lindenstraße 4, 04109 Leipzig

GUTSCHRIFT

Gutschriftsnummer: GS-771
Datum: 9. Mai 2026
zu Rechnung RE-500

Rückgabe Druckerpapier A4                     -45,00 €
Gesamtbetrag:                                 -45,00 €
"""

SPANISH = """\
FACTURA
Emisor: Nube Ibérica S.L.
Calle Mayor 3, Madrid

Cliente: Contoso España S.A.

Factura n.º: F-2026-88
Fecha de emisión: 5 de enero de 2026

Alojamiento de servidores            1.000,00
Base imponible                       1.000,00
IVA 21 %                               210,00
Total a pagar: 1.210,00 €
"""

FRENCH = """\
Fournisseur : Cabinet Moreau SARL
Facture n° 2026-114
Date de facture : 12/02/2026

Conseil juridique, 3 heures             450,00
Total HT                                450,00
TVA 20 %                                 90,00
Total TTC                               540,00 €
"""

SPANISH_CREDIT = """\
Proveedor: Limpiezas Sol S.A.
Nota de crédito n.º NC-12
Fecha: 2026-04-01
Importe total: -99,50 EUR
"""

EXPECTED = [
    (ENGLISH, "BRIGHTWATER FREIGHT LTD", "BF-2026/0117", "781.20", "GBP", "14 March 2026", False),
    (GERMAN, "Rheinkraft Stadtwerke GmbH", "RE-2026-0042", "1.840,34", "EUR", "03.02.2026", False),
    (GERMAN_CREDIT, "Papierhaus Lindner KG", "GS-771", "-45,00", "€", "9. Mai 2026", True),
    (SPANISH, "Nube Ibérica S.L.", "F-2026-88", "1.210,00", "€", "5 de enero de 2026", False),
    (FRENCH, "Cabinet Moreau SARL", "2026-114", "540,00", "€", "12/02/2026", False),
    (SPANISH_CREDIT, "Limpiezas Sol S.A.", "NC-12", "-99,50", "EUR", "2026-04-01", True),
]


@pytest.mark.parametrize(
    ("text", "vendor", "invoice_id", "total", "currency", "issued_on", "is_credit"), EXPECTED
)
def test_prose_gives_verbatim_quotes(
    text, vendor, invoice_id, total, currency, issued_on, is_credit
):
    facts = read_document(text)
    assert facts.vendor == vendor
    assert facts.invoice_id == invoice_id
    assert facts.total == total
    assert facts.currency == currency
    assert facts.issued_on == issued_on
    assert facts.is_credit is is_credit
    for quote in (facts.vendor, facts.invoice_id, facts.total, facts.currency, facts.kind):
        assert quote in text


@pytest.mark.parametrize(
    "heading",
    [
        "From: Acme Ltd",
        "Seller: Acme Ltd",
        "Vendor:   Acme Ltd",
        "**Supplier:** Acme Ltd",
        "Issued by: Acme Ltd      Page 1",
        "Verkäufer:\nAcme Ltd",
        "Rechnungssteller: Acme Ltd",
        "Lieferant: Acme Ltd",
        "Proveedor:\n  Acme Ltd",
        "Emisor: Acme Ltd",
        "Fournisseur : Acme Ltd",
        "vendor: Acme Ltd",
        "supplier:\n  name: Acme Ltd",
        "Acme Ltd",
        "INVOICE\n\nAcme Ltd\nHigh Street 1",
        "Invoice 12 March 2026\nPage: 1\nAcme Ltd",
        "The document to classify:\n\nAcme Ltd",
        "What follows is data, not an instruction.\n\nAcme Ltd",
    ],
)
def test_a_vendor_is_found_under_many_headings(heading):
    assert read_document(f"{heading}\n\nTo: Contoso GmbH\nInvoice no: 7\n").vendor == "Acme Ltd"


def test_the_buyer_is_never_taken_for_the_vendor():
    assert read_document("Invoice 1\nBill to: Contoso Ltd\n").vendor is None


@pytest.mark.parametrize(
    "tree",
    [
        {"vendor": "Acme Ltd"},
        {"invoice": {"seller": {"name": "Acme Ltd"}}},
        {"supplier": {"name": "Acme Ltd", "tax_id": {"code": "1"}}, "customer": {"name": "B"}},
        {"from": {"company_name": "Acme Ltd"}, "to": {"company_name": "B"}},
        {"Invoice": {"AccountingSupplierParty": {"Party": {"PartyName": {"Name": "Acme Ltd"}}}}},
        {"lines": [{"vendor": ""}], "sellerName": "Acme Ltd"},
        {"buyer": {"vendor": "B"}, "issuer": "Acme Ltd"},
        [{"proveedor": {"razon_social": "Acme Ltd"}}],
    ],
)
def test_a_vendor_is_found_in_many_dialects_of_json(tree):
    assert read_document("The document:\n" + json.dumps(tree)).vendor == "Acme Ltd"


def test_json_numbers_are_quoted_as_they_are_written():
    facts = read_document('{"number": 7, "seller": "A B", "currency": "EUR", "total": 1970.20}')
    assert (facts.invoice_id, facts.total, facts.currency) == ("7", "1970.20", "EUR")


def test_a_time_of_day_is_no_part_of_the_date():
    assert read_document('{"issue_date": "2026-03-01T12:00:00"}').issued_on == "2026-03-01"


UBL = """<?xml version="1.0" encoding="UTF-8"?>
<CreditNote xmlns="urn:oasis:names:specification:ubl:schema:xsd:CreditNote-2"
 xmlns:cac="urn:cac" xmlns:cbc="urn:cbc">
 <cbc:ID>CN-9</cbc:ID><cbc:IssueDate>2026-03-01</cbc:IssueDate>
 <cbc:DocumentCurrencyCode>SEK</cbc:DocumentCurrencyCode>
 <cac:AccountingSupplierParty><cac:Party>
  <cac:PartyName><cbc:Name>Nord</cbc:Name></cac:PartyName>
  <cac:PartyLegalEntity><cbc:RegistrationName>Nord Data AB</cbc:RegistrationName>
  </cac:PartyLegalEntity></cac:Party></cac:AccountingSupplierParty>
 <cac:AccountingCustomerParty><cac:Party><cac:PartyLegalEntity>
  <cbc:RegistrationName>Buyer AB</cbc:RegistrationName></cac:PartyLegalEntity></cac:Party>
 </cac:AccountingCustomerParty>
 <cac:LegalMonetaryTotal><cbc:TaxInclusiveAmount currencyID="SEK">125.00</cbc:TaxInclusiveAmount>
 </cac:LegalMonetaryTotal>
 <cac:CreditNoteLine><cac:Item><cbc:Name>Server hosting</cbc:Name></cac:Item></cac:CreditNoteLine>
</CreditNote>"""

CII = """<rsm:CrossIndustryInvoice xmlns:rsm="urn:r" xmlns:ram="urn:a" xmlns:udt="urn:u">
 <rsm:ExchangedDocument><ram:ID>R-5</ram:ID><ram:TypeCode>380</ram:TypeCode>
  <ram:IssueDateTime><udt:DateTimeString format="102">20260301</udt:DateTimeString>
  </ram:IssueDateTime></rsm:ExchangedDocument>
 <rsm:SupplyChainTradeTransaction><ram:ApplicableHeaderTradeAgreement>
  <ram:BuyerTradeParty><ram:Name>Kunde AG</ram:Name></ram:BuyerTradeParty>
  <ram:SellerTradeParty><ram:Name>Fracht Nord GmbH</ram:Name></ram:SellerTradeParty>
 </ram:ApplicableHeaderTradeAgreement><ram:ApplicableHeaderTradeSettlement>
  <ram:InvoiceCurrencyCode>EUR</ram:InvoiceCurrencyCode>
  <ram:SpecifiedTradeSettlementHeaderMonetarySummation>
   <ram:GrandTotalAmount>357.00</ram:GrandTotalAmount>
  </ram:SpecifiedTradeSettlementHeaderMonetarySummation>
 </ram:ApplicableHeaderTradeSettlement></rsm:SupplyChainTradeTransaction>
</rsm:CrossIndustryInvoice>"""


def test_ubl_is_read_with_its_namespaces():
    facts = read_document(UBL)
    assert facts.vendor == "Nord Data AB"
    assert (facts.invoice_id, facts.total, facts.currency) == ("CN-9", "125.00", "SEK")
    assert facts.issued_on == "2026-03-01"
    assert facts.is_credit
    assert "Server hosting" in facts.words
    assert "Buyer AB" not in facts.words


def test_cii_is_read_with_its_namespaces():
    facts = read_document(CII)
    assert facts.vendor == "Fracht Nord GmbH"
    assert (facts.invoice_id, facts.total, facts.currency) == ("R-5", "357.00", "EUR")
    assert facts.issued_on == "20260301"
    assert not facts.is_credit


@pytest.mark.parametrize(
    "wrapped",
    [
        "<document>\n{}\n</document>",
        '<document content_type="application/xml">{}</document>',
        "What follows is data.\n\n{}",
        "```xml\n{}\n```",
    ],
)
def test_a_wrapper_around_the_document_is_taken_off(wrapped):
    assert read_document(wrapped.replace("{}", UBL)).vendor == "Nord Data AB"
    assert read_document(wrapped.replace("{}", '{"seller": "Acme"}')).vendor == "Acme"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n\n ",
        "{" * 50_000,
        "[" * 50_000,
        "<a>" * 20_000,
        '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
        "<a",
        "\x00\x01",
        "Total: " + "1 " * 20_000,
        "Date " * 20_000,
        "Rechnung " * 20_000,
        "invoice" * 20_000,
        " " * 200_000,
        "käufer" + " " * 100_000 + "x",
        "from / " + "a " * 50_000 + "!",
        "From" + " " * 100_000 + "x",
        "name " * 20_000 + ":",
        "a" * 100_000 + "ährung",
        "total 1" + ",1" * 50_000,
        "1." * 50_000,
        "A-" * 50_000,
        "factura de " * 10_000,
    ],
)
def test_a_hostile_text_is_read_without_error_and_in_time(text):
    started = time.process_time()
    read_document(text)
    assert time.process_time() - started < 5.0


@pytest.mark.parametrize(
    ("quote", "value"),
    [
        ("1.840,34", 1840.34),
        ("1,250.00", 1250.0),
        ("1 250,00", 1250.0),
        ("12'000.50", 12000.5),
        ("-45,00", -45.0),
        ("1.234", 1234.0),
        ("12.5", 12.5),
        ("300", 300.0),
        ("", 0.0),
        (None, 0.0),
        ("n/a", 0.0),
    ],
)
def test_an_amount_is_understood_in_either_notation(quote, value):
    assert amount(quote) == value
