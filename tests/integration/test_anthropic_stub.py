"""The model stub, spoken to by the real SDK."""

import anthropic
import httpx
import pytest

from bpa.embedded.anthropic import AnthropicStub, StubOptions

INVOICE = """From: Nimbus Cloud Hosting Ltd
Invoice no: INV-2031
Date: 2026-03-04
Total: 1,250.00 GBP
"""
TOOL = {
    "name": "post_invoice",
    "description": "Post the invoice.",
    "input_schema": {
        "type": "object",
        "properties": {
            "vendor": {"type": "string"},
            "route": {"type": "string", "enum": ["general", "it", "logistics"]},
            "confidence": {"type": "number"},
            "reason": {"type": "string"},
            "invoice_id": {"type": "string"},
            "total": {"type": "string"},
            "currency": {"type": "string"},
            "issued_on": {"type": "string"},
            "kind": {"type": "string"},
        },
        "required": ["vendor", "route", "confidence", "reason"],
    },
}
ASK = {
    "model": "claude-test-model",
    "max_tokens": 1024,
    "system": "Classify the invoice.",
    "messages": [{"role": "user", "content": [{"type": "text", "text": INVOICE}]}],
    "tools": [TOOL],
}


@pytest.fixture
async def stub():
    async with AnthropicStub(StubOptions(finish_s=2.0)) as running:
        yield running


@pytest.fixture
async def client(stub):
    async with anthropic.AsyncAnthropic(
        api_key="k", base_url=stub.url, max_retries=0, timeout=20.0
    ) as sdk:
        yield sdk


@pytest.fixture
async def raw(stub):
    async with httpx.AsyncClient(base_url=stub.url, timeout=20.0) as plain:
        yield plain


async def script(raw, *rules):
    answer = await raw.put("/_stub/script", json={"rules": list(rules)})
    assert answer.status_code == 200, answer.text


async def test_the_sdk_gets_a_tool_call_that_quotes_the_document(client):
    message = await client.messages.create(**ASK)
    assert message.stop_reason == "tool_use"
    assert message.id.startswith("msg_stub_")
    (call,) = message.content
    assert call.name == "post_invoice"
    assert call.input["vendor"] == "Nimbus Cloud Hosting Ltd"
    assert call.input["route"] == "it"
    assert call.input["invoice_id"] == "INV-2031"
    assert call.input["total"] == "1,250.00"
    assert call.input["currency"] == "GBP"
    assert call.input["issued_on"] == "2026-03-04"
    assert 0 <= call.input["confidence"] <= 1


async def test_a_stream_accumulates_to_the_same_message(client):
    whole = await client.messages.create(**ASK)
    async with client.messages.stream(**ASK) as stream:
        kinds = [event.type async for event in stream]
        streamed = await stream.get_final_message()
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert streamed.content[0].input == whole.content[0].input
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    assert streamed.usage.input_tokens == whole.usage.input_tokens
