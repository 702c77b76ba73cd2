"""The demonstration's documents say what their expectations say."""

import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from bpa.documents.answers import Answer, check_answer, tool_parameters
from bpa.documents.decoding import decode, parsed_json
from bpa.documents.schema_checks import SchemaCheck
from bpa.documents.values import Document
from bpa.embedded.anthropic.answers import answer
from bpa.embedded.anthropic.protocol import parse_request
from bpa.embedded.anthropic.rules import Behaviour
from bpa.errors import Reason, RunEnded

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "demo"
SCHEMAS = ROOT / "config" / "schemas"
ROUTES = (
    "it",
    "logistics",
    "office",
    "utilities",
    "professional-services",
    "marketing",
    "travel",
    "general",
)
EXPECTED = [json.loads(line) for line in (DEMO / "expected.jsonl").read_text().splitlines()]
COMPLETED = [row for row in EXPECTED if row["outcome"] == "completed"]
DEAD = {row["reason"]: row for row in EXPECTED if row["outcome"] == "dead_lettered"}


def schema(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    return loaded


def read(row: dict[str, Any]) -> Document:
    return decode((DEMO / row["file"]).read_bytes(), row["content_type"])


def answered(document: Document) -> Answer:
    """Let the model stub answer about a document, as a run does."""
    request = {
        "model": "claude-stub",
        "max_tokens": 1024,
        "messages": [{"role": "user", "content": f"<document>\n{document.text}\n</document>"}],
        "tools": [
            {"name": "post_invoice", "input_schema": tool_parameters(document, ROUTES)},
        ],
    }
    parsed = parse_request(json.dumps(request).encode(), "2023-06-01")
    call = answer(parsed, Behaviour.ANSWER, "toolu_1").content[0]
    return check_answer(call["input"], document, ROUTES)


def test_there_are_a_hundred_varied_documents_and_each_has_its_expectation():
    files = {f"invoices/{path.name}" for path in (DEMO / "invoices").iterdir()}
    assert files == {row["file"] for row in EXPECTED}
    assert len(files) == len(EXPECTED) == 100
    dialects = Counter(read(row).dialect for row in COMPLETED)
    assert min(dialects[name] for name in ("json", "ubl", "cii", "text")) >= 20
    credit_notes = Counter(read(row).dialect for row in COMPLETED if row["kind"] == "credit_note")
    assert set(credit_notes) == {"json", "ubl", "cii", "text"}
    assert credit_notes.total() >= 10
    assert len({row["vendor"] for row in COMPLETED}) >= 12
    assert {row["currency"] for row in COMPLETED} >= {"EUR", "USD", "GBP", "CHF"}
    assert {row["route"] for row in COMPLETED} == set(ROUTES)


@pytest.mark.parametrize("row", COMPLETED, ids=lambda row: row["file"])
def test_a_document_reads_as_expected_and_the_stub_routes_it(row):
    document = read(row)
    SchemaCheck(schema("accepted-currencies")).check(
        document, (DEMO / row["file"]).read_bytes(), row["content_type"]
    )
    got = answered(document)
    SchemaCheck(schema("accepted-currencies")).check_fields(got.fields)
    assert {
        "vendor": got.vendor,
        "route": got.route,
        "invoice_id": got.fields.invoice_id,
        "currency": got.fields.currency,
        "total": got.fields.total,
        "issued_on": got.fields.issued_on,
        "kind": got.fields.kind,
    } == {key: row[key] for key in row if key not in ("file", "content_type", "outcome")}


def test_five_documents_end_in_the_dead_letter_queue_each_for_its_own_reason():
    assert set(DEAD) == {
        Reason.DESERIALIZATION_ERROR,
        Reason.SCHEMA_VALIDATION_FAILED,
        Reason.RETRIES_EXHAUSTED,
        Reason.NON_RETRYABLE_HTTP_STATUS,
        Reason.BUDGET_EXCEEDED,
    }
    with pytest.raises(RunEnded) as caught:
        read(DEAD[Reason.DESERIALIZATION_ERROR])
    assert caught.value.reason is Reason.DESERIALIZATION_ERROR
    row = DEAD[Reason.SCHEMA_VALIDATION_FAILED]
    check = SchemaCheck(schema("accepted-currencies"))
    with pytest.raises(RunEnded) as caught:
        check.check(read(row), (DEMO / row["file"]).read_bytes(), row["content_type"])
    assert caught.value.reason is Reason.SCHEMA_VALIDATION_FAILED
    for reason, number in (("RetriesExhausted", "503"), ("NonRetryableHttpStatus", "422")):
        fields = answered(read(DEAD[reason])).fields
        assert fields.invoice_id == f"DEMO-{number}-0001"
    assert len(read(DEAD[Reason.BUDGET_EXCEEDED]).text) > 24_000


@pytest.mark.parametrize(
    "row", [row for row in COMPLETED if "json" in row["content_type"]], ids=lambda row: row["file"]
)
def test_a_json_invoice_keeps_its_published_schema_and_adds_up(row):
    invoice = parsed_json((DEMO / row["file"]).read_bytes(), row["content_type"])
    assert isinstance(invoice, dict)
    jsonschema.validate(invoice, schema("invoice"))
    net = sum(Decimal(line["amount"]) for line in invoice["lines"])
    assert net == Decimal(invoice["subtotal"])
    assert net + Decimal(invoice["tax"]) == Decimal(invoice["total"])


@pytest.mark.parametrize("name", ["invoice", "payload", "accepted-currencies"])
def test_a_published_schema_is_one_and_its_example_keeps_it(name):
    published = schema(name)
    jsonschema.Draft202012Validator.check_schema(published)
    for example in published["examples"]:
        jsonschema.validate(example, published)
