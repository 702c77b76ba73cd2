from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpa.documents.amounts import decimal_string, read_amount
from bpa.documents.dates import read_date
from bpa.documents.quotes import quoted_fields
from bpa.documents.values import Document
from bpa.errors import Reason, RunEnded
from tests.unit.documents.samples import ending_the_run_at_most


@pytest.mark.parametrize(
    ("written", "currency", "amount"),
    [
        ("1.234,56 €", "EUR", "1234.56"),
        ("1,234.56", "USD", "1234.56"),
        ("1 234,56", "EUR", "1234.56"),
        ("1\u00a0234,56\u202f€", "EUR", "1234.56"),
        ("CHF 1'234.50", "CHF", "1234.50"),
        ("CHF 1\u2019234.50", "CHF", "1234.50"),
        ("Fr. 120.-", "CHF", "120.00"),
        ("120.\u2013 CHF", "CHF", "120.00"),
        ("$1,234,567.8", "USD", "1234567.80"),
        ("-£12.00", "GBP", "-12.00"),
        ("£-12.00", "GBP", "-12.00"),
        ("\u22128,79", "EUR", "-8.79"),
        ("8,79-", "EUR", "-8.79"),
        ("(8.79)", "USD", "-8.79"),
        ("EUR1.234,50", "EUR", "1234.50"),
        ("1.234", "EUR", "1234.00"),
        ("0.234", "EUR", "0.234"),
        ("1.234", "KWD", "1.234"),
        ("1,23,456.00", "INR", "123456.00"),
        ("A$ 99.00", "AUD", "99.00"),
        ("0", "EUR", "0.00"),
    ],
)
def test_amounts_are_read_as_people_write_them(written, currency, amount):
    found = read_amount(written, currency)
    assert found is not None
    assert decimal_string(found) == amount


@pytest.mark.parametrize(
    "written",
    [
        "",
        "twelve",
        "12 USD",
        "1.23.456,00",
        "1,23,45",
        "--8",
        "(-8)",
        "(8",
        "1e5",
        "12 13",
        "0x1F",
        "1.234.56",
        "1234,567,89",
        "€",
        "9" * 70,
        "\u0663\u066b\u0665",
        "12,50 % EUR",
        "-5-",
    ],
)
def test_what_is_no_amount_in_the_currency_is_refused(written):
    assert read_amount(written, "EUR") is None


@given(
    st.integers(-(10**14), 10**14),
    st.sampled_from(
        [(".", ","), (",", "."), (" ", ","), ("'", "."), ("\u2019", "."), ("", "."), ("", ",")]
    ),
    st.sampled_from(["{}", "{} EUR", "EUR {}", "€{}", "{} €"]),
)
def test_an_amount_survives_every_way_of_writing_it(cents, marks, frame):
    group, point = marks
    whole, fraction = divmod(abs(cents), 100)
    number = f"{whole:,}".replace(",", group) + f"{point}{fraction:02}"
    amount = read_amount(frame.format(f"-{number}" if cents < 0 else number), "EUR")
    assert amount == Decimal(cents) / 100
    assert Decimal(decimal_string(amount) or "NaN") == amount


@given(st.text(max_size=30))
def test_any_text_is_an_amount_or_none(written):
    found = read_amount(written, "EUR")
    assert found is None or found.is_finite()


@given(st.decimals(allow_nan=True, allow_infinity=True))
def test_a_decimal_string_is_plain_and_exact_or_none(amount):
    written = decimal_string(amount)
    if written is not None:
        assert "E" not in written
        assert len(written.rpartition(".")[2]) >= 2
        assert Decimal(written) == amount


@pytest.mark.parametrize(
    ("written", "month_first", "expected"),
    [
        ("2026-03-12", False, date(2026, 3, 12)),
        ("2026/03/12", True, date(2026, 3, 12)),
        ("20260312", False, date(2026, 3, 12)),
        ("12.03.2026", True, date(2026, 3, 12)),
        ("12. 3. 2026", False, date(2026, 3, 12)),
        ("12.03.26", False, date(2026, 3, 12)),
        ("12/03/2026", False, date(2026, 3, 12)),
        ("12/03/2026", True, date(2026, 12, 3)),
        ("25/03/2026", True, date(2026, 3, 25)),
        ("03/25/2026", False, date(2026, 3, 25)),
        ("12-03-2026", False, date(2026, 3, 12)),
        ("12 March 2026", False, date(2026, 3, 12)),
        ("12-Mar-2026", False, date(2026, 3, 12)),
        ("March 12, 2026", False, date(2026, 3, 12)),
        ("Mar. 12th, 2026", False, date(2026, 3, 12)),
        ("Thursday, 12 March 2026", False, date(2026, 3, 12)),
        ("12. März 2026", False, date(2026, 3, 12)),
        ("1. Ma\u0308rz 2026", False, date(2026, 3, 1)),
        ("12 mars 2026", False, date(2026, 3, 12)),
        ("1er août 2026", False, date(2026, 8, 1)),
        ("12 de marzo de 2026", False, date(2026, 3, 12)),
        ("3 de diciembre del 2026", False, date(2026, 12, 3)),
        ("19 april 2014", False, date(2014, 4, 19)),
    ],
)
def test_dates_are_read_as_people_write_them(written, month_first, expected):
    assert read_date(written, month_first=month_first) == expected


@pytest.mark.parametrize(
    "written",
    ["", "31.02.2026", "12 Foo 2026", "2026", "13/13/2026", "12.03.1066", "0000-00-00", "now"],
)
def test_what_is_no_date_is_refused(written):
    assert read_date(written) is None


@given(st.text(max_size=30), st.booleans())
def test_any_text_is_a_date_or_none(written, month_first):
    read_date(written, month_first=month_first)


PROSE = """Kanzlei Brandt & Partner
Rechnung Nr. RE-2026/118  Datum: 12.03.2026
Position 1   81,90 EUR
Gesamtbetrag   1.234,56 EUR
Gutschrift vorab -8,79 EUR; USt. 19 %, siehe (12,00)
Konto 1 234,56
"""
QUOTES = {
    "invoice_id": "RE-2026/118",
    "total": "1.234,56",
    "currency": "EUR",
    "issued_on": "12.03.2026",
    "kind": "invoice",
}


def quoted(text: str = PROSE, **changes: str):
    return quoted_fields(Document("text", text, None), {**QUOTES, **changes})


def test_quotes_that_stand_in_the_document_become_fields():
    fields = quoted()
    assert (fields.invoice_id, fields.total, fields.currency) == ("RE-2026/118", "1234.56", "EUR")
    assert (fields.issued_on, fields.kind, fields.vendor) == ("2026-03-12", "invoice", None)
    assert quoted(total="1.234,56   EUR") == fields
    assert quoted(total="-8,79 EUR", kind="credit_note").total == "-8.79"


@pytest.mark.parametrize(
    "changes",
    [
        {"invoice_id": "RE-2026/119"},
        {"invoice_id": "118"},
        {"invoice_id": "RE-2026"},
        {"invoice_id": "E-2026/118"},
        {"invoice_id": ""},
        {"invoice_id": " \u200b"},
        {"invoice_id": "R" * 200},
        {"total": "9.999,00"},
        {"total": "234,56"},
        {"total": "1.234"},
        {"total": "1.234,5"},
        {"total": "8,79"},
        {"total": "12,00"},
        {"total": "19"},
        {"total": "12.03.2026"},
        {"total": "Gesamtbetrag"},
        {"total": "1.234,56 USD"},
        {"currency": "USD"},
        {"currency": "Nr"},
        {"currency": "EU"},
        {"issued_on": "2.03.2026"},
        {"issued_on": "12.03.202"},
        {"issued_on": "2026-03-12"},
        {"issued_on": "RE-2026/118"},
        {"kind": "receipt"},
        {"kind": ""},
    ],
    ids=str,
)
def test_a_quote_that_does_not_stand_there_as_a_whole_token_ends_the_run(changes):
    with pytest.raises(RunEnded) as caught:
        quoted(**changes)
    assert caught.value.reason is Reason.SCHEMA_VALIDATION_FAILED
    for value in filter(None, changes.values()):
        assert value not in caught.value.detail or len(value) < 3


def test_a_credit_note_is_believed_only_of_a_document_that_says_so():
    with pytest.raises(RunEnded):
        quoted(PROSE.replace("Gutschrift", "Abschlag"), kind="credit_note")
    text = PROSE.replace("Gutschrift", "Nota de crédito")
    assert quoted(text, kind="credit_note").kind == "credit_note"


def test_a_slashed_date_has_the_day_first_except_in_us_dollars():
    text = "Invoice INV-7 of 03/04/2026, total {} 10.00"
    changes = {"invoice_id": "INV-7", "total": "10.00", "issued_on": "03/04/2026"}
    assert quoted(text.format("GBP"), currency="GBP", **changes).issued_on == "2026-04-03"
    assert quoted(text.format("USD"), currency="USD", **changes).issued_on == "2026-03-04"


def test_a_bare_dollar_is_the_us_dollar_unless_another_one_is_named():
    changes = {"invoice_id": "INV-7", "total": "$10.00", "issued_on": "2026-04-03", "currency": "$"}
    assert quoted("Invoice INV-7 2026-04-03 $10.00", **changes).currency == "USD"
    for text in ("Invoice INV-7 2026-04-03 $10.00 AUD", "Invoice INV-7 2026-04-03 A$10.00"):
        with pytest.raises(RunEnded):
            quoted(text, **changes)
    named = {**changes, "currency": "AUD", "total": "10.00"}
    assert quoted("Invoice INV-7 2026-04-03 AUD 10.00", **named).currency == "AUD"


def test_a_currency_may_touch_the_amount_and_a_sign_may_not_be_dropped():
    text = "INV-7 2026-04-03 EUR12,00 and -EUR7,00 and -€ 6,00 and 5,00- and -4,00€"
    changes = {"invoice_id": "INV-7", "issued_on": "2026-04-03"}
    assert quoted(text, total="12,00", **changes).total == "12.00"
    for hidden in ("7,00", "EUR7,00", "6,00", "5,00", "4,00", "4,00€"):
        with pytest.raises(RunEnded):
            quoted(text, total=hidden, **changes)
    assert quoted(text, total="-EUR7,00", **changes).total == "-7.00"
    assert quoted(text, total="5,00-", **changes).total == "-5.00"


@given(
    st.text(max_size=200), st.dictionaries(st.sampled_from(sorted(QUOTES)), st.text(max_size=40))
)
def test_any_quotes_of_any_text_give_fields_or_end_the_run(text, quotes):
    with ending_the_run_at_most(Reason.SCHEMA_VALIDATION_FAILED):
        quoted_fields(Document("text", text, None), quotes)
