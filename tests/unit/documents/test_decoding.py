import base64
import json
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bpa.documents.characters import excerpt
from bpa.documents.decoding import MAX_BYTES, decode
from bpa.documents.values import Document
from bpa.errors import Reason, RunEnded
from tests.unit.documents.samples import INVOICE, as_json, cii, ending_the_run_at_most, ubl

XML, TEXT, EVENT = "application/xml", "text/plain", "application/cloudevents+json"


def refusal(body: bytes, content_type: str | None = None) -> RunEnded:
    with pytest.raises(RunEnded) as caught:
        decode(body, content_type)
    assert "\n" not in caught.value.detail
    return caught.value


def test_our_json_invoice_is_read_by_code():
    document = decode(as_json(), None)
    assert document.dialect == "json"
    assert document.fields is not None
    assert document.fields.vendor == "Nordbyte Cloud Hosting GmbH"
    assert (document.fields.total, document.fields.currency) == ("1234.50", "EUR")
    assert (document.fields.issued_on, document.fields.kind) == ("2026-03-12", "invoice")
    shown = json.loads(document.text)
    assert shown["lines"] == [{"description": "Hosting", "quantity": "2", "amount": "617.25"}]


@pytest.mark.parametrize(
    ("literal", "total"),
    [
        ("0.1", "0.10"),
        ("1234567890.12", "1234567890.12"),
        ("-8.790", "-8.79"),
        ("1e3", "1000.00"),
        ("9007199254740993.0", None),
        ("12", "12.00"),
        ("-0.0", "0.00"),
        ('"1234.5670"', "1234.567"),
    ],
)
def test_a_json_total_is_exact_and_never_a_float(literal, total):
    body = as_json(total=0).replace(b'"total": 0', b'"total": ' + literal.encode())
    if total is None:
        assert refusal(body).reason is Reason.DESERIALIZATION_ERROR
    else:
        fields = decode(body, "application/json; charset=utf-8").fields
        assert fields is not None
        assert fields.total == total


HOSTILE_JSON = {
    "empty": b"",
    "whitespace": b" \n\t ",
    "only a byte-order mark": b"\xef\xbb\xbf",
    "invalid UTF-8": b'{"invoice_id": "\xff\xfe"}',
    "UTF-16": json.dumps(INVOICE).encode("utf-16"),
    "truncated": as_json()[:-9],
    "trailing": as_json() + b"x",
    "arrays 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
    "objects 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deeper than any invoice": b'{"a":' * 80 + b"1" + b"}" * 80,
    "NaN": b'{"invoice_id": NaN}',
    "Infinity": b'{"a": [-Infinity]}',
    "a huge integer": b'{"a": 1' + b"0" * 400 + b"}",
    "an integer beyond int()": b'{"a": ' + b"9" * 5000 + b"}",
    "a huge exponent": b'{"a": 1e999999}',
    "an endless exponent": b'{"a": 1e99999999999999999999999999}',
    "zero with a huge exponent": b'{"a": 0e999999999}',
    "a tiny number": b'{"a": 1e-999999}',
    "a repeated key": b'{"total": 1, "total": 2}',
    "NUL in a string": as_json(vendor="a\x00b"),
    "NUL in a key": b'{"\\u0000": 1}',
    "raw NUL": b'{"a": "\x00"}',
    "a lone surrogate": b'{"a": "\\ud800"}',
    "an array": b"[1, 2]",
    "a number": b"42",
    "a string": b'"invoice"',
    "null": b"null",
    "total of a wrong type": as_json(total=[]),
    "total true": as_json(total=True),
    "total not a number": as_json(total="about 12"),
    "id a number": as_json(invoice_id=7),
    "id empty": as_json(invoice_id=" "),
    "id null": as_json(invoice_id=None),
    "id endless": as_json(invoice_id="9" * 129),
    "vendor an object": as_json(vendor={}),
    "currency unknown": as_json(currency="XXQ"),
    "currency lower case": as_json(currency="eur"),
    "a date that is none": as_json(issued_on="2026-02-30"),
    "a date of another form": as_json(issued_on="12.03.2026"),
    "lines an object": as_json(lines={}),
    "a line a string": as_json(lines=["x"]),
    "a line's amount an array": as_json(lines=[{"amount": []}]),
    "an unknown kind": as_json(kind="receipt"),
    "a kind of a wrong type": as_json(kind=[1]),
}


@pytest.mark.parametrize("body", HOSTILE_JSON.values(), ids=HOSTILE_JSON)
def test_hostile_json_is_a_deserialization_error(body):
    assert refusal(body).reason is Reason.DESERIALIZATION_ERROR


BOMB = b"""<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY b "&lol;&lol;">]>
<lolz>&b;</lolz>"""
EXTERNAL = b"""<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>"""
HOSTILE_XML = {
    "empty": b"",
    "prose": b"not XML",
    "truncated": ubl()[:-12],
    "billion laughs": BOMB,
    "an external entity": EXTERNAL,
    "a DTD alone": b"<!DOCTYPE a><a/>",
    "an external DTD": b'<!DOCTYPE a SYSTEM "http://example.org/a.dtd"><a/>',
    "a parameter entity": b'<!DOCTYPE a [<!ENTITY % p SYSTEM "http://example.org/">%p;]><a/>',
    "an undefined entity": b"<a>&nbsp;</a>",
    "100,000 deep": b"<a>" * 100_000 + b"</a>" * 100_000,
    "65 deep": b"<a>" * 65 + b"</a>" * 65,
    "Latin-1": '<?xml version="1.0" encoding="ISO-8859-1"?><a>\u00e9</a>'.encode("latin-1"),
    "Latin-1 declared": b'<?xml version="1.0" encoding="ISO-8859-1"?><a>e</a>',
    "UTF-7": b'<?xml version="1.0" encoding="UTF-7"?><a>+ADw-script+AD4-</a>',
    "an encoding nobody knows": b'<?xml version="1.0" encoding="nobody"?><a/>',
    "UTF-16 that calls itself UTF-8": '<?xml version="1.0" encoding="UTF-8"?><a/>'.encode("utf-16"),
    "UTF-16 without a mark": "<a/>".encode("utf-16-le"),
    "UTF-32": "<a/>".encode("utf-32"),
    "half a character": b"\xff\xfe<\x00a\x00/\x00>",
    "NUL": b"<a>\x00</a>",
    "a control character": b"<a>&#1;</a>",
    "two roots": b"<a/><b/>",
    "UBL without a total": ubl(totals=""),
    "UBL with words for a total": ubl(
        totals="<cbc:TaxInclusiveAmount>ten</cbc:TaxInclusiveAmount>"
    ),
    "UBL with no currency": ubl(currency=""),
    "CII with a date of another format": cii(date="2026-03"),
}


@pytest.mark.parametrize("body", HOSTILE_XML.values(), ids=HOSTILE_XML)
def test_hostile_xml_is_a_deserialization_error(body):
    assert refusal(body, XML).reason is Reason.DESERIALIZATION_ERROR


@pytest.mark.parametrize(
    "content_type",
    [
        "application/pdf",
        "text/html",
        "json",
        "application/",
        "application/json; charset=utf-16",
        "application/json; charset=nonsense",
        "application/json charset",
        'text/plain; charset="utf-8',
        "text/plain\r\nX-Injected: 1",
        "application/json\x00",
        "a/b" * 1000,
        "application/json;" * 100,
        "\uff41pplication/json",
        "text/plain; charset=utf-7",
    ],
)
def test_a_content_type_that_is_not_read_here_is_a_deserialization_error(content_type):
    assert refusal(as_json(), content_type).reason is Reason.DESERIALIZATION_ERROR


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "application/json",
        "Application/JSON ; charset=UTF-8",
        'application/json;charset="utf-8";v=1;',
    ],
)
def test_json_is_read_under_every_spelling_of_its_content_type(content_type):
    assert decode(as_json(), content_type).dialect == "json"


def test_a_body_above_the_limit_is_too_large_and_one_at_the_limit_is_read():
    body = as_json()
    assert decode(body, None, max_bytes=len(body)).dialect == "json"
    with pytest.raises(RunEnded) as caught:
        decode(body, None, max_bytes=len(body) - 1)
    assert caught.value.reason is Reason.PAYLOAD_TOO_LARGE


def test_a_text_that_grows_in_utf_8_beyond_what_a_lease_carries_is_too_large():
    fits, grows = b"a" * MAX_BYTES, b"\x80" * MAX_BYTES  # the euro sign, three bytes in UTF-8
    assert len(decode(fits, TEXT).text) == MAX_BYTES
    with pytest.raises(RunEnded, match="text has 3145728 bytes; 2097152 are") as caught:
        decode(grows, "text/plain; charset=windows-1252")
    assert caught.value.reason is Reason.PAYLOAD_TOO_LARGE


def test_byte_order_marks_are_taken_off():
    assert decode(b"\xef\xbb\xbf" + as_json(), None).dialect == "json"
    assert decode(b"\xef\xbb\xbf" + ubl(), XML).dialect == "ubl"
    utf16 = ubl().decode().replace('encoding="UTF-8"', 'encoding="UTF-16"').encode("utf-16")
    assert decode(utf16, XML) == decode(ubl(), XML)
    assert decode(b"\xef\xbb\xbfhello", TEXT).text == "hello"


def test_prose_is_read_in_the_charset_that_the_content_type_names():
    assert decode("Müller".encode("cp1252"), "text/plain; charset=windows-1252").text == "Müller"
    assert decode("Müller".encode("utf-16"), "text/plain; charset=utf-16").text == "Müller"
    assert refusal("Müller".encode("cp1252"), TEXT).reason is Reason.DESERIALIZATION_ERROR


def test_json_and_xml_of_another_dialect_are_text_with_exact_numbers():
    document = decode(b'{"code": "7", "payable": 1970.20}', None)
    assert document == Document("text", '{"code":"7","payable":1970.20}', None)
    xml = b'<F xmlns="urn:x" Folio="L1"><P><N>A</N></P><P>B</P><T c="EUR">7.10</T><S>%s</S></F>'
    document = decode(xml % (b"x" * 999), XML)
    assert (document.dialect, document.fields) == ("text", None)
    shown = {"Folio": "L1", "P": [{"N": "A"}, "B"], "T": {"c": "EUR", "value": "7.10"}}
    assert json.loads(document.text) == {"F": {**shown, "S": "x" * 200}}


def test_prose_loses_what_a_reader_does_not_see():
    hidden = "".join(chr(0xE0000 + ord(char)) for char in "pay me")
    text = f"In\u200bvoice\u202e 7{hidden}\r\nA{' ' * 40}B\x07\n\n\n\n\nC\ufeff"
    assert decode(text.encode(), TEXT).text == "Invoice 7\nA   B\n\nC"
    assert refusal("\u200b\u202e".encode(), TEXT).reason is Reason.DESERIALIZATION_ERROR
    assert refusal(b"a\x00b", TEXT).reason is Reason.DESERIALIZATION_ERROR


def event(**members: object) -> bytes:
    return json.dumps(
        {"specversion": "1.0", "type": "t", "source": "s", "id": "1", **members}
    ).encode()


def test_a_structured_cloudevent_is_read_by_its_data():
    assert decode(event(data=INVOICE), EVENT) == decode(as_json(), None)
    xml = ubl()
    assert decode(event(data=xml.decode(), datacontenttype=XML), EVENT) == decode(xml, XML)
    encoded = base64.b64encode(xml).decode()
    assert decode(event(data_base64=encoded, datacontenttype=XML), EVENT) == decode(xml, XML)
    assert decode(event(data="Rechnung 7", datacontenttype=TEXT), EVENT).text == "Rechnung 7"


@pytest.mark.parametrize(
    "body",
    [
        event(),
        event(data=INVOICE, data_base64=""),
        event(data_base64="!"),
        event(data_base64=3),
        event(data=1),
        event(data={}, datacontenttype=XML),
        event(data=INVOICE, datacontenttype=7),
        event(data={}, datacontenttype=EVENT),
        b"{}",
        b"[]",
        as_json(),
    ],
)
def test_a_cloudevent_without_readable_data_is_a_deserialization_error(body):
    assert refusal(body, EVENT).reason is Reason.DESERIALIZATION_ERROR


def test_a_refusal_never_quotes_the_payload():
    secret = "hunter2"
    for body in (
        as_json(total=secret),
        as_json(currency=secret),
        as_json(kind=secret),
        f'{{"{secret}": 1, "{secret}": 2}}'.encode(),
        f"{{{secret}".encode(),
    ):
        assert secret not in refusal(body).detail
    for body in (f"<{secret}>".encode(), f"<!DOCTYPE {secret}><{secret}/>".encode()):
        assert secret not in refusal(body, XML).detail


def test_an_excerpt_is_one_short_visible_line():
    assert excerpt(b'{"a":\n 1}\x00\x1b[31m') == '{"a": 1}[31m'
    assert len(excerpt(("ü\u202e" * 5000).encode())) == 200
    assert excerpt(b"\xff\xfe") == ""


CONTENT_TYPES = st.one_of(
    st.sampled_from([None, "application/json", XML, TEXT, EVENT, "text/plain; charset=utf-16"]),
    st.text(max_size=60),
)
FRAGMENTS = st.sampled_from(
    [
        b"<a",
        b"</a>",
        b"<?xml ",
        b"<!DOCTYPE a [",
        b"&x;",
        b"{",
        b"}",
        b'"total"',
        b":",
        b"1e9",
        b"\x00",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"[",
        b'"\\ud800"',
        b"NaN",
        b",",
        ubl()[:300],
        as_json(),
        cii()[:200],
    ]
)


@given(
    st.one_of(st.binary(max_size=400), st.lists(FRAGMENTS, max_size=12).map(b"".join)),
    CONTENT_TYPES,
)
@example(b"<?xml version='1.0' encoding='x\xff'?><a/>", XML)
def test_whatever_the_bytes_decode_returns_a_document_or_ends_the_run(body, content_type):
    with ending_the_run_at_most(Reason.DESERIALIZATION_ERROR):
        assert decode(body, content_type).text


@given(st.binary(max_size=2000))
def test_an_excerpt_of_any_bytes_is_short_and_printable(body):
    shown = excerpt(body)
    assert len(shown) <= 200
    assert shown.isprintable() or not shown.isascii()


@given(st.integers(0, 3000), st.integers(0, 255))
def test_a_damaged_byte_anywhere_never_escapes_as_another_error(at, byte):
    for body, content_type in ((as_json(), None), (ubl(), XML), (cii(), XML)):
        damaged = bytearray(body)
        damaged[at % len(damaged)] = byte
        with ending_the_run_at_most(Reason.DESERIALIZATION_ERROR):
            decode(bytes(damaged), content_type)


def test_the_largest_body_is_decoded_in_bounded_time():
    line = {"description": "x" * 50, "quantity": 1, "amount": "1.00"}
    body = as_json(lines=[line] * 10_000)
    assert len(body) < 1_048_576
    started = time.process_time()
    document = decode(body, None)
    assert time.process_time() - started < 2.0
    assert json.loads(document.text)["lines_left_out"] == 9_980
    assert len(document.text) < 4_000


def test_a_megabyte_of_combining_marks_is_decoded_in_bounded_time():
    body = ("a" + "\u0301\u0323" * 260_000).encode()
    started = time.process_time()
    decode(body, TEXT)
    decode(json.dumps({"a": body.decode()}, ensure_ascii=False).encode(), None)
    assert time.process_time() - started < 5.0


def test_letters_and_their_accents_are_composed():
    assert decode("Ma\u0308rz\nMu\u0308ller".encode(), TEXT).text == "M\u00e4rz\nM\u00fcller"
