import time

import pytest

from bpa.documents.decoding import decode
from bpa.documents.schema_checks import SchemaCheck, check_schema
from bpa.documents.values import Fields
from bpa.errors import InvalidRequest, Reason, RunEnded
from tests.unit.documents.samples import as_json, cii, ubl

EUROS = {"required": ["invoice_id"], "properties": {"currency": {"enum": ["EUR"]}}}
XML = "application/xml"


def refused(body: bytes, content_type: str | None, schema: dict[str, object]) -> str:
    with pytest.raises(RunEnded) as caught:
        check_schema(body, content_type, schema)
    assert caught.value.reason is Reason.SCHEMA_VALIDATION_FAILED
    return caught.value.detail


def test_one_schema_over_the_fields_means_the_same_for_every_dialect():
    check_schema(as_json(), None, EUROS)
    check_schema(ubl(), XML, EUROS)
    check_schema(cii(), XML, EUROS)
    assert refused(as_json(currency="SEK"), None, EUROS).startswith(
        "/currency breaks the rule 'enum'"
    )
    assert "/currency" in refused(ubl(currency="SEK"), XML, EUROS)


def test_prose_is_checked_once_its_fields_are_known():
    check = SchemaCheck(EUROS)
    check.check(decode(b"Rechnung 7", "text/plain"), b"Rechnung 7", "text/plain")
    with pytest.raises(RunEnded):
        check.check_fields(Fields("7", None, "SEK", "1.00", "2026-01-01", "invoice"))


def test_json_is_held_against_the_schema_as_it_was_sent():
    schema = {"properties": {"lines": {"items": {"required": ["order"]}}}}
    assert refused(as_json(), None, schema).startswith("/lines/0 breaks the rule 'required'")


def test_numbers_are_compared_exactly():
    schema = {"properties": {"total": {"multipleOf": 0.01}, "count": {"type": "integer"}}}
    check_schema(as_json(total=1234567890.07, count=2.0), None, schema)
    refused(as_json(total=0.001), None, schema)
    refused(as_json(count=2.5), None, schema)
    refused(as_json(count=True), None, schema)


def test_a_refusal_names_place_and_rule_and_no_value():
    detail = refused(as_json(note="hunter2"), None, {"properties": {"note": {"const": "x"}}})
    assert "/note" in detail
    assert "hunter2" not in detail


def test_a_refusal_names_the_properties_that_are_missing():
    schema = {"required": ["invoice_id", "order", "iban"]}
    detail = refused(as_json(note="hunter2"), None, schema)
    assert detail == (
        'the document breaks the rule \'required\' of the demanded schema: it lacks "order", "iban"'
    )


def test_a_refusal_says_what_is_allowed_up_to_a_line_s_length():
    allowed = {"properties": {"note": {"enum": ["EUR", 0.5, None]}}}
    detail = refused(as_json(note="hunter2"), None, allowed)
    assert detail.endswith("""'enum' of the demanded schema: allowed is "EUR", 0.5, null""")
    many = {"properties": {"note": {"enum": [f"code {n}" for n in range(1000)]}}}
    detail = refused(as_json(note="hunter2"), None, many)
    assert len(detail.partition("allowed is ")[2]) == 200
    assert "hunter2" not in detail


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nothing"},
        {"properties": {"a": {"$ref": "https://example.org/schema"}}},
        {"properties": {"a": {"pattern": "("}}},
        {"allOf": [{"$ref": "other.json#/a"}]},
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_when_it_is_made(schema):
    with pytest.raises(InvalidRequest):
        SchemaCheck(schema)


def test_a_reference_inside_the_schema_is_followed():
    schema = {"properties": {"currency": {"$ref": "#/$defs/c"}}, "$defs": {"c": {"const": "EUR"}}}
    check_schema(as_json(), None, schema)
    refused(as_json(currency="SEK"), None, schema)


HOSTILE = "a" * 40 + "!"
SLOW = "^(a|a)*$"


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"extra": {"pattern": SLOW}}},
        {"properties": {"extra": {"type": "object", "patternProperties": {SLOW: {}}}}},
        {"$defs": {"a": {"pattern": SLOW}}, "properties": {"extra": {"$ref": "#/$defs/a"}}},
        {"properties": {"extra": {"patternProperties": {SLOW: {}}, "additionalProperties": False}}},
        {"properties": {"extras": {"items": {"pattern": SLOW}}}},
        {"properties": {"extra": {"propertyNames": {"pattern": SLOW}}}},
    ],
)
def test_a_pattern_that_backtracks_for_years_is_stopped(schema: dict[str, object]):
    begun_s = time.process_time()
    extra = {HOSTILE: 1} if "Properties" in str(schema) or "Names" in str(schema) else HOSTILE
    detail = refused(as_json(extra=extra, extras=[HOSTILE] * 1000), None, schema)
    assert "over 0.2 s" in detail
    assert HOSTILE not in detail
    assert time.process_time() - begun_s < 5


def test_each_document_has_the_whole_budget_for_its_patterns():
    check = SchemaCheck({"properties": {"extra": {"pattern": SLOW}}})
    for _ in range(2):
        body = as_json(extra=HOSTILE)
        with pytest.raises(RunEnded):
            check.check(decode(body, None), body, None)
        good = as_json(extra="aaa")
        check.check(decode(good, None), good, None)


def test_patterns_mean_what_the_standard_says():
    schema = {
        "properties": {"note": {"pattern": "^[A-Z]{2}\\d+$"}},
        "patternProperties": {"^x-": {"type": "string"}},
        "additionalProperties": {"type": ["string", "number", "array", "object", "null"]},
    }
    check_schema(as_json(note="AB12", **{"x-a": "text"}), None, schema)
    assert "/note" in refused(as_json(note="ab12"), None, schema)
    assert "'type'" in refused(as_json(**{"x-a": 7}), None, schema)
    assert "'type'" in refused(as_json(other=True), None, schema)
    closed = {"patternProperties": {"^[a-z_]+$": {}}, "additionalProperties": False}
    check_schema(as_json(), None, closed)
    assert "'additionalProperties'" in refused(as_json(**{"x-a": 7}), None, closed)


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"note": {"pattern": "("}}},
        {"patternProperties": {"a": {}}, "allOf": [{"unevaluatedProperties": False}]},
        {"properties": {"a": {"$schema": "http://json-schema.org/draft-07/schema#"}}},
    ],
)
def test_a_pattern_that_cannot_be_bounded_is_refused_with_the_deployment(schema: dict[str, object]):
    with pytest.raises(InvalidRequest):
        SchemaCheck(schema)
