import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpa.documents.answers import check_answer, tool_parameters
from bpa.documents.decoding import decode
from bpa.documents.payloads import payload
from bpa.documents.values import Document, Fields
from bpa.documents.wire import from_wire, to_wire
from bpa.errors import InvalidRequest, Reason, RunEnded
from tests.unit.documents.samples import as_json, ending_the_run_at_most

ROUTES = ("it", "office", "general")
STRUCTURED = decode(as_json(), None)
SELLERLESS = decode(as_json(vendor=None), None)
PROSE = decode(b"Acme Ltd\nInvoice INV-7, 12 March 2026\nTotal USD 1,200.00", "text/plain")
ANSWER = {"vendor": "Acme", "route": "it", "confidence": 0.9, "reason": "hosting"}
QUOTED = {
    **ANSWER,
    "invoice_id": "INV-7",
    "total": "1,200.00",
    "currency": "USD",
    "issued_on": "12 March 2026",
    "kind": "invoice",
}


def test_the_tool_asks_only_for_what_code_could_not_read():
    assert set(tool_parameters(STRUCTURED, ROUTES)["properties"]) == set(ANSWER)
    schema = tool_parameters(PROSE, ROUTES)
    assert set(schema["properties"]) == set(QUOTED)
    assert schema["additionalProperties"] is False
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(QUOTED, schema)


def test_fields_of_a_structured_document_come_from_code_and_the_seller_too():
    answer = check_answer(ANSWER, STRUCTURED, ROUTES)
    assert answer.fields is STRUCTURED.fields
    assert answer.vendor == "Nordbyte Cloud Hosting GmbH"
    assert (answer.route, answer.confidence, answer.reason) == ("it", 0.9, "hosting")


def test_the_models_vendor_counts_where_code_read_none():
    assert check_answer(ANSWER, SELLERLESS, ROUTES).vendor == "Acme"
    assert check_answer({**QUOTED, "confidence": 1}, PROSE, ROUTES).vendor == "Acme"


def test_fields_of_prose_are_the_models_quotes_read_by_code():
    fields = check_answer(QUOTED, PROSE, ROUTES).fields
    assert fields == Fields("INV-7", None, "USD", "1200.00", "2026-03-12", "invoice")


@pytest.mark.parametrize(
    "arguments",
    [
        None,
        [],
        "{}",
        {},
        {**ANSWER, "total": "1.00"},
        {**ANSWER, "extra": 1},
        {key: value for key, value in ANSWER.items() if key != "reason"},
        {**ANSWER, "route": "finance"},
        {**ANSWER, "route": None},
        {**ANSWER, "route": ["it"]},
        {**ANSWER, "route": "IT"},
        {**ANSWER, "vendor": ""},
        {**ANSWER, "vendor": " \u200b "},
        {**ANSWER, "vendor": "x" * 201},
        {**ANSWER, "vendor": "a\x00b"},
        {**ANSWER, "vendor": 7},
        {**ANSWER, "confidence": True},
        {**ANSWER, "confidence": "0.9"},
        {**ANSWER, "confidence": float("nan")},
        {**ANSWER, "confidence": -0.1},
        {**ANSWER, "confidence": 1.01},
        {**ANSWER, "confidence": 10**400},
        {**ANSWER, "reason": "x" * 401},
        {**ANSWER, "reason": "\x1b[31m"},
    ],
    ids=repr,
)
def test_an_answer_outside_the_closed_structure_ends_the_run(arguments):
    with pytest.raises(RunEnded) as caught:
        check_answer(arguments, STRUCTURED, ROUTES)
    assert caught.value.reason is Reason.SCHEMA_VALIDATION_FAILED


def test_prose_needs_its_quotes():
    with pytest.raises(RunEnded):
        check_answer(ANSWER, PROSE, ROUTES)
    with pytest.raises(RunEnded):
        check_answer({**QUOTED, "total": "1,300.00"}, PROSE, ROUTES)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(QUOTED)), JSON_VALUES) | JSON_VALUES, st.booleans())
def test_any_answer_is_accepted_or_ends_the_run(arguments, with_valid):
    if with_valid and isinstance(arguments, dict):
        arguments = {**QUOTED, **arguments}
    for document in (STRUCTURED, PROSE):
        with ending_the_run_at_most(Reason.SCHEMA_VALIDATION_FAILED):
            check_answer(arguments, document, ROUTES)


def test_the_payload_has_exactly_the_agreed_keys_and_always_the_same_bytes():
    assert STRUCTURED.fields is not None
    arguments = {"vendor": "Müller", "route": "it", "confidence": 1}
    body = payload("run-1", STRUCTURED.fields, **arguments)
    assert body == payload("run-1", STRUCTURED.fields, **arguments)
    assert json.loads(body) == {
        "run_id": "run-1",
        "invoice_id": "NB-2026-0117",
        "vendor": "Müller",
        "route": "it",
        "confidence": 1.0,
        "currency": "EUR",
        "total": "1234.50",
        "issued_on": "2026-03-12",
        "kind": "invoice",
    }


DOCUMENTS = st.builds(
    Document,
    st.sampled_from(["json", "ubl", "cii", "text"]),
    st.text(),
    st.none()
    | st.builds(
        Fields,
        st.text(),
        st.none() | st.text(),
        st.text(),
        st.text(),
        st.text(),
        st.sampled_from(["invoice", "credit_note"]),
    ),
)


@given(DOCUMENTS)
def test_a_document_comes_back_from_the_wire_as_it_went(document):
    assert from_wire(to_wire(document)) == document


@given(st.binary(max_size=100))
def test_bytes_that_are_no_document_are_refused(stored):
    with pytest.raises(InvalidRequest):
        from_wire(stored)
