"""Messages that cannot be worked on: dead-lettered after one delivery, without a model call."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bpa.errors import InvalidRequest
from tests.e2e.queues import dead_letters, documents, emptied, send, send_amqp_value
from tests.e2e.server import Bpa

GOOD = [d for d in documents() if len(d.body) < 10_000][:4]
INVOICE: dict[str, Any] = json.loads(
    next(d for d in GOOD if d.content_type == "application/json").body
)
QUEUE_TAKES_BYTES = 256 * 1024
ENVELOPE_BYTES = 512  # header, properties and trace context, rounded up
DTD = b"""<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;&lol;&lol;">]>
<Invoice xmlns="urn:oasis:names:specification:ubl:schema:xsd:Invoice-2">&lol2;</Invoice>"""
JSON, XML, TEXT = "application/json", "application/xml", "text/plain"


def changed(**fields: Any) -> bytes:
    return json.dumps({**INVOICE, **fields}).encode()


MALFORMED = {
    "invalid UTF-8": (b'{"invoice_id": "\xff\xfe\xfd"}', JSON),
    "invalid UTF-8 as text": (b"Invoice \xc3\x28 total 1.00 EUR", TEXT),
    "truncated JSON": (json.dumps(INVOICE).encode()[:200], JSON),
    "100,000 levels deep": (b"[" * 100_000 + b"]" * 100_000, JSON),
    "100,000 levels deep in an invoice": (
        json.dumps(INVOICE).encode()[:-1] + b', "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        JSON,
    ),
    "100,000 elements deep": (b"<a>" * 30_000 + b"</a>" * 30_000, XML),
    "NaN": (changed(total="@").replace(b'"@"', b"NaN"), JSON),
    "a number beyond measure": (changed(total="@").replace(b'"@"', b"1e999999999"), JSON),
    "the largest size the queue takes": (
        b'{"invoice_id": "' + b"x" * (QUEUE_TAKES_BYTES - ENVELOPE_BYTES - 30),
        JSON,
    ),
    "empty": (b"", JSON),
    "empty text": (b"  \n ", TEXT),
    "wrong types": (changed(total=["1.00"], invoice_id={"a": 1}), JSON),
    "no object": (b'"an invoice, honestly"', JSON),
    "NUL in a string": (changed(vendor="Nul\0Ltd", invoice_id="N\0UL"), JSON),
    "unknown content type": (json.dumps(INVOICE).encode(), "application/pdf"),
    "XML with a DTD": (DTD, XML),
    "XML that is none": (b"<Invoice><unclosed>", XML),
}


async def test_malformed_bodies_dead_letter_after_one_delivery_and_the_good_ones_pass(
    server: Bpa,
) -> None:
    bus = server.addresses["service_bus"]
    before = await server.model_requests()
    bad = [(name, *sent) for name, sent in MALFORMED.items()]
    mixed = [(b, kind) for _, b, kind in bad]
    for index, document in enumerate(GOOD):  # good ones first, last and in between
        mixed.insert(index * 6, (document.body, document.content_type))
    good_at = {index * 6 for index in range(len(GOOD))}

    sent = await send(bus, mixed)
    value = await send_amqp_value(bus, {"invoice_id": "V-1"})
    runs = await server.ended_of([*sent, value])
    await emptied(bus)

    letters = await dead_letters(bus)
    good = [trace_id for index, trace_id in enumerate(sent) if index in good_at]
    poison = [trace_id for index, trace_id in enumerate(sent) if index not in good_at]
    names = dict(zip(poison, MALFORMED, strict=True)) | {value: "AMQP value body"}
    assert [runs[trace_id]["status"] for trace_id in good] == ["completed"] * len(GOOD)
    for trace_id, name in names.items():
        run = await server.get(f"/v1/runs/{runs[trace_id]['runId']}")
        assert run["status"] == "dead_lettered", name
        assert run["reason"] in ("DeserializationError", "SchemaValidationFailed"), name
        assert run["detail"], name
        assert (run["executions"], run["tokensUsed"], run["steps"]) == (0, 0, []), name
        (delivery,) = run["deliveries"]
        assert (delivery["deliveryCount"], delivery["disposition"]) == (0, "dead_letter"), name
        assert (letters[trace_id].reason, letters[trace_id].description) == (
            run["reason"],
            run["detail"],
        ), name
        assert "\0" not in json.dumps(run["inputRef"]), name
    assert await server.model_requests() - before == len(GOOD)


async def test_a_message_beyond_the_largest_size_is_refused_to_its_sender(server: Bpa) -> None:
    with pytest.raises(InvalidRequest, match="larger than"):
        await send(server.addresses["service_bus"], [(b"x" * QUEUE_TAKES_BYTES, TEXT)])


async def test_a_document_that_the_deployments_schema_refuses_costs_no_model_call(
    server: Bpa,
) -> None:
    bus = server.addresses["service_bus"]
    before = await server.model_requests()

    (trace_id,) = await send(bus, [(changed(currency="JPY"), JSON)])
    run = (await server.ended_of([trace_id]))[trace_id]

    assert (run["status"], run["reason"]) == ("dead_lettered", "SchemaValidationFailed")
    assert "currency" in run["detail"]
    assert await server.model_requests() == before
    await emptied(bus)
    assert (await dead_letters(bus))[trace_id].reason == "SchemaValidationFailed"
