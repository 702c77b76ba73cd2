"""The model stub, spoken to by the real SDK."""

import json

import anthropic
import httpx
import httpx2
import pytest
from agent_framework import Message
from agent_framework_anthropic import AnthropicClient

from bpa.embedded.anthropic import AnthropicStub, StubOptions
from bpa.errors import StartupError

VERSION = {"anthropic-version": "2023-06-01"}
OLD = {"x-api-key": "k", **VERSION}
NEW = {"authorization": "Bearer k", "anthropic-version": "2026-10-21"}

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
    async with AnthropicStub(StubOptions(finish_s=0.5)) as running:
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


async def test_after_the_tools_result_a_short_text_ends_the_turn(client):
    first = await client.messages.create(**ASK)
    result = {"type": "tool_result", "tool_use_id": first.content[0].id, "content": "201"}
    history = [
        *ASK["messages"],
        {"role": "assistant", "content": [block.model_dump() for block in first.content]},
        {"role": "user", "content": [result]},
    ]
    second = await client.messages.create(**{**ASK, "messages": history})
    assert second.stop_reason == "end_turn"
    assert second.content[0].type == "text"
    assert second.usage.input_tokens > first.usage.input_tokens


async def test_the_same_request_gets_the_same_answer_under_another_id(client):
    first = await client.messages.create(**ASK)
    second = await client.messages.create(**ASK)
    assert first.content[0].input == second.content[0].input
    assert first.usage == second.usage
    assert first.id != second.id
    assert first.content[0].id != second.content[0].id


@pytest.mark.parametrize(
    ("choice", "stop_reason"),
    [
        ({"type": "auto"}, "tool_use"),
        ({"type": "any"}, "tool_use"),
        ({"type": "tool", "name": "post_invoice"}, "tool_use"),
        ({"type": "none"}, "end_turn"),
    ],
)
async def test_the_choice_of_tools_is_honoured(client, choice, stop_reason):
    message = await client.messages.create(**ASK, tool_choice=choice)
    assert message.stop_reason == stop_reason


async def test_without_tools_it_says_in_words_what_it_read(client):
    ask = {name: value for name, value in ASK.items() if name != "tools"}
    message = await client.messages.create(**ask)
    assert message.stop_reason == "end_turn"
    assert "Nimbus Cloud Hosting Ltd" in message.content[0].text
    assert "stub" in message.content[0].text


async def test_only_what_the_tool_asks_for_is_answered(client):
    schema = {
        "type": "object",
        "properties": {
            "vendor": {"type": "string"},
            "kind": {"type": "string", "enum": ["invoice", "credit_note"]},
            "pages": {"type": "integer"},
            "remark": {"type": "string"},
        },
        "required": ["vendor", "kind", "pages"],
    }
    tool = {"name": "post_invoice", "input_schema": schema}
    message = await client.messages.create(**{**ASK, "tools": [tool]})
    assert message.content[0].input == {
        "vendor": "Nimbus Cloud Hosting Ltd",
        "kind": "invoice",
        "pages": 0,
    }


async def test_max_tokens_cuts_text_and_calls(client):
    ask = {name: value for name, value in ASK.items() if name != "tools"}
    message = await client.messages.create(**{**ask, "max_tokens": 5})
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 5
    assert len(message.content[0].text) == 20
    call = await client.messages.create(**{**ASK, "max_tokens": 30})
    assert call.stop_reason == "max_tokens"
    assert call.usage.output_tokens == 30
    assert set(call.content[0].input) < set(TOOL["input_schema"]["properties"])


async def test_a_stop_sequence_ends_the_text(client):
    ask = {name: value for name, value in ASK.items() if name != "tools"}
    message = await client.messages.create(**ask, stop_sequences=["stub"])
    assert message.stop_reason == "stop_sequence"
    assert message.stop_sequence == "stub"
    assert message.content[0].text == "This is a model "


async def test_counted_tokens_are_the_ones_billed(client):
    message = await client.messages.create(**ASK)
    ask = {name: value for name, value in ASK.items() if name != "max_tokens"}
    counted = await client.messages.count_tokens(**ask)
    assert counted.input_tokens == message.usage.input_tokens > len(INVOICE) / 8


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (400, "invalid_request_error", anthropic.BadRequestError),
        (401, "authentication_error", anthropic.AuthenticationError),
        (403, "permission_error", anthropic.PermissionDeniedError),
        (404, "not_found_error", anthropic.NotFoundError),
        (409, "conflict_error", anthropic.ConflictError),
        (413, "request_too_large", anthropic.APIStatusError),
        (429, "rate_limit_error", anthropic.RateLimitError),
        (500, "api_error", anthropic.InternalServerError),
        (503, "api_error", anthropic.InternalServerError),
        (529, "overloaded_error", anthropic.OverloadedError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_scripted_status_raises_the_sdks_exception(
    client, raw, status, kind, error, stream
):
    await script(raw, {"status": status, "times": 1, "retry_after_s": 7})
    with pytest.raises(error) as caught:
        await client.messages.create(**ASK, stream=stream)
    assert caught.value.status_code == status
    assert caught.value.body["error"]["type"] == kind
    assert caught.value.request_id.startswith("req_stub_")
    assert caught.value.response.headers["retry-after"] == "7"
    message = await client.messages.create(**ASK)
    assert message.stop_reason == "tool_use", "the rule is used up after one time"


async def test_the_sdks_own_retries_get_through_a_passing_overload(stub, raw):
    await script(raw, {"status": 529, "times": 1, "retry_after_s": 0})
    async with anthropic.AsyncAnthropic(api_key="k", base_url=stub.url, max_retries=1) as sdk:
        assert (await sdk.messages.create(**ASK)).stop_reason == "tool_use"
    totals = (await raw.get("/_stub/ledger")).json()["totals"]
    assert totals["by_status"] == {"529": 1, "200": 1}


async def test_a_refusal_has_its_own_stop_reason(client, raw):
    await script(raw, {"behave": "refuse", "times": 1})
    assert (await client.messages.create(**ASK)).stop_reason == "refusal"


async def test_wrong_arguments_name_a_route_that_nobody_offers(client, raw):
    await script(raw, {"behave": "wrong_arguments", "times": 1})
    message = await client.messages.create(**ASK)
    offered = TOOL["input_schema"]["properties"]["route"]["enum"]
    assert message.content[0].input["route"] not in offered


async def test_a_text_instead_of_the_call_can_be_scripted(client, raw):
    await script(raw, {"behave": "text", "times": 1})
    message = await client.messages.create(**ASK)
    assert (message.stop_reason, message.content[0].type) == ("end_turn", "text")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_dropped_connection_is_a_connection_error(client, raw, stream):
    await script(raw, {"behave": "drop", "times": 1})
    with pytest.raises(anthropic.APIConnectionError):
        await client.messages.create(**ASK, stream=stream)


async def test_a_stream_can_break_off_in_its_middle(client, raw):
    await script(raw, {"behave": "drop_mid_stream", "times": 1})
    seen = []

    async def read():
        async for event in await client.messages.create(**ASK, stream=True):
            seen.append(event.type)  # noqa: PERF401 - what came before the break counts

    with pytest.raises((httpx2.TransportError, anthropic.APIConnectionError)):
        await read()
    assert seen[0] == "message_start"
    assert "message_stop" not in seen


async def test_a_malformed_body_is_not_json(raw):
    await script(raw, {"behave": "malformed", "times": 1})
    answer = await raw.post("/v1/messages", json=ASK, headers=OLD)
    assert answer.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        answer.json()


async def test_a_malformed_stream_raises_in_the_sdk(client, raw):
    await script(raw, {"behave": "malformed", "times": 1})
    with pytest.raises(json.JSONDecodeError):
        async for _ in await client.messages.create(**ASK, stream=True):
            pass


async def test_a_rule_can_match_text_model_turn_and_every_nth(client, raw):
    await script(
        raw,
        {"match": {"contains": "INV-2031", "model": "other"}, "status": 500},
        {"match": {"contains": "INV-9999"}, "status": 500},
        {"match": {"after_tool_result": True}, "status": 500},
        {"match": {"contains": "INV-2031"}, "every": 2, "status": 429},
    )
    await client.messages.create(**ASK)
    with pytest.raises(anthropic.RateLimitError):
        await client.messages.create(**ASK)
    await client.messages.create(**ASK)
    counts = (await raw.get("/_stub/script")).json()["rules"]
    assert [(rule["matched"], rule["applied"]) for rule in counts] == [
        (0, 0),
        (0, 0),
        (0, 0),
        (3, 1),
    ]


async def test_latency_can_be_scripted(client, raw):
    await script(raw, {"latency_ms": 600_000})
    with pytest.raises(anthropic.APITimeoutError):
        await client.messages.create(**ASK, timeout=0.2)
    assert (await raw.delete("/_stub/script")).status_code == 200
    assert (await client.messages.create(**ASK)).stop_reason == "tool_use"


@pytest.mark.parametrize(
    "rules", [{}, [], {"rules": [{"behaves": "drop"}]}, {"rules": [{"status": 200}]}]
)
async def test_a_wrong_script_is_refused(raw, rules):
    answer = await raw.put("/_stub/script", json=rules)
    assert answer.status_code == 400
    assert answer.json()["error"]


async def test_the_ledger_accounts_for_every_request(client, raw):
    await script(raw, {"status": 500, "times": 1})
    with pytest.raises(anthropic.InternalServerError):
        await client.messages.create(**ASK)
    messages = [await client.messages.create(**ASK) for _ in range(2)]
    ledger = (await raw.get("/_stub/ledger")).json()
    assert ledger["totals"]["requests"] == 3
    assert ledger["totals"]["by_status"] == {"500": 1, "200": 2}
    assert ledger["totals"]["input_tokens"] == sum(m.usage.input_tokens for m in messages)
    assert ledger["totals"]["output_tokens"] == sum(m.usage.output_tokens for m in messages)
    assert [entry["status"] for entry in ledger["entries"]] == [500, 200, 200]
    await raw.delete("/_stub/ledger")
    assert (await raw.get("/_stub/ledger")).json()["totals"]["requests"] == 0


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_input_passes_through_a_cache_as_told_and_is_never_more_than_there_is(
    client, raw, is_streamed
):
    plain = (await client.messages.create(**ASK)).usage
    await raw.delete("/_stub/ledger")
    await script(raw, {"cache_read_tokens": 10, "cache_write_tokens": 1_000_000})
    if is_streamed:
        async with client.messages.stream(**ASK) as stream:
            usage = (await stream.get_final_message()).usage
    else:
        usage = (await client.messages.create(**ASK)).usage
    written = plain.input_tokens - 10
    assert (usage.input_tokens, usage.output_tokens) == (0, plain.output_tokens)
    assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (10, written)
    ledger = (await raw.get("/_stub/ledger")).json()
    for account in (ledger["totals"], *ledger["entries"]):
        assert (account["input_tokens"], account["cache_read_tokens"]) == (0, 10)
        assert account["cache_write_tokens"] == written


async def test_the_ledger_names_the_document_that_each_request_was_about(raw):
    for number in ("A-1", "B-2", "A-1"):
        document = f'{{"invoice_id": "{number}", "vendor": "Bergblick AG", "total": "1.00"}}'
        ask = {**ASK, "messages": [{"role": "user", "content": document}]}
        assert (await raw.post("/v1/messages", json=ask, headers=OLD)).status_code == 200
    entries = (await raw.get("/_stub/ledger")).json()["entries"]
    assert [entry["invoice_id"] for entry in entries] == ["A-1", "B-2", "A-1"]


async def test_the_ledgers_totals_outlive_its_bounded_entries():
    async with (
        AnthropicStub(StubOptions(ledger_entries=3)) as stub,
        httpx.AsyncClient(base_url=stub.url) as raw,
    ):
        for _ in range(5):
            await raw.post("/v1/messages", json=ASK, headers=OLD)
        ledger = (await raw.get("/_stub/ledger")).json()
    assert len(ledger["entries"]) == 3
    assert ledger["totals"]["requests"] == 5


@pytest.mark.parametrize("headers", [OLD, NEW, {**NEW, "anthropic-version": "2023-06-01"}])
async def test_both_dialects_of_headers_are_served(raw, headers):
    answer = await raw.post("/v1/messages", json=ASK, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["x-bpa-stub"] == "true"
    assert answer.headers["request-id"].startswith("req_stub_")


@pytest.mark.parametrize(
    ("headers", "status", "kind"),
    [
        ({"anthropic-version": "2023-06-01"}, 401, "authentication_error"),
        ({**OLD, "x-api-key": ""}, 401, "authentication_error"),
        ({"authorization": "Basic k", **VERSION}, 401, "authentication_error"),
        ({"x-api-key": "k"}, 400, "invalid_request_error"),
        ({"x-api-key": "k", "anthropic-version": "2020-01-01"}, 400, "invalid_request_error"),
    ],
)
async def test_headers_are_checked(raw, headers, status, kind):
    answer = await raw.post("/v1/messages", json=ASK, headers=headers)
    assert answer.status_code == status
    body = answer.json()
    assert body["type"] == "error"
    assert body["error"]["type"] == kind
    assert body["request_id"] == answer.headers["request-id"]


@pytest.mark.parametrize("name", ["temperature", "top_p", "top_k"])
async def test_sampling_is_refused_in_the_new_dialect_alone(raw, name):
    body = {**ASK, name: 1}
    assert (await raw.post("/v1/messages", json=body, headers=OLD)).status_code == 200
    answer = await raw.post("/v1/messages", json=body, headers=NEW)
    assert answer.status_code == 400
    assert name in answer.json()["error"]["message"]


async def test_a_raw_stream_names_each_event_by_its_data(raw):
    answer = await raw.post("/v1/messages", json={**ASK, "stream": True}, headers=NEW)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [
        (lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: ")))
        for lines in (block.split("\n") for block in answer.text.strip().split("\n\n"))
    ]
    names = [name for name, _ in events]
    assert all(name == data["type"] for name, data in events)
    assert names[:3] == ["message_start", "ping", "content_block_start"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert events[0][1]["message"]["content"] == []
    assert events[-2][1]["delta"]["stop_reason"] == "tool_use"


async def test_other_paths_and_methods_answer_in_the_apis_shape(raw):
    answer = await raw.get("/v1/models", headers=OLD)
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")
    answer = await raw.get("/v1/messages", headers=OLD)
    assert answer.status_code == 405
    answer = await raw.get("/health")
    assert (answer.status_code, answer.json()["stub"]) == (200, True)


async def test_a_request_over_the_limit_gets_413():
    async with (
        AnthropicStub(StubOptions(max_body_bytes=500)) as stub,
        httpx.AsyncClient(base_url=stub.url) as small,
    ):
        answer = await small.post("/v1/messages", json=ASK, headers=OLD)
    assert answer.status_code == 413
    assert answer.json()["error"]["type"] == "request_too_large"


async def test_a_taken_port_is_named_with_its_setting(stub):
    other = AnthropicStub(StubOptions(port=stub.port, port_setting="stub.port"))
    with pytest.raises(StartupError, match=rf"port {stub.port} .*stub\.port"):
        await other.start()


async def test_the_frameworks_client_reads_its_answers(stub):
    client = AnthropicClient(
        model="claude-test-model",
        anthropic_client=anthropic.AsyncAnthropic(
            api_key="k", base_url=stub.url, max_retries=0, timeout=20.0
        ),
    )
    message = Message(role="user", contents=[INVOICE])
    answer = await client.get_response([message])
    assert "Nimbus Cloud Hosting Ltd" in answer.text
    assert answer.usage_details["input_token_count"] > 0
    pieces = [piece async for piece in client.get_response([message], stream=True)]
    assert "".join(piece.text for piece in pieces) == answer.text
    await client.anthropic_client.close()
