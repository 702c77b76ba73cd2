"""What the stub accepts and how it weighs and writes it."""

import json

import pytest
from anthropic.types.beta.message_create_params import MessageCreateParamsBase as BetaParams
from anthropic.types.message_create_params import MessageCreateParamsBase as Params

from bpa.embedded.anthropic import protocol, tokens
from bpa.embedded.anthropic.protocol import NEW_VERSION, OLD_VERSION, ApiError, parse_request

CALL = {"type": "tool_use", "id": "t1", "name": "post_invoice", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "ok"}
TOOL = {"name": "post_invoice", "input_schema": {"type": "object"}}


def request(**changes):
    fields = {
        "model": "m",
        "max_tokens": 10,
        "messages": [{"role": "user", "content": "hello"}],
        **changes,
    }
    return json.dumps({k: v for k, v in fields.items() if v is not ...}).encode()


def user(*blocks):
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks):
    return {"role": "assistant", "content": list(blocks)}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"system": "be brief"},
        {"system": [{"type": "text", "text": "be brief"}]},
        {"stream": True, "temperature": 0.5, "metadata": {"user_id": "u"}},
        {"messages": [user({"type": "text", "text": "a"})], "stop_sequences": ["x"]},
        {"tools": [TOOL, {"type": "web_search_20250305", "name": "web_search"}]},
        {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "post_invoice"}},
        {"messages": [user({"type": "text", "text": "a"}), assistant(CALL), user(RESULT)]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]},
    ],
)
def test_valid_requests_are_accepted(changes):
    assert parse_request(request(**changes), OLD_VERSION).model == "m"


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"model": ...}, "model"),
        ({"model": 5}, "model"),
        ({"max_tokens": ...}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": "10"}, "max_tokens"),
        ({"messages": ...}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["hi"]}, "messages.0"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "first message"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages.0"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [user({"type": "text", "text": ""})]}, "messages.0.content.0.text"),
        ({"messages": [user({"type": "text"})]}, "messages.0.content.0.text"),
        ({"messages": [user({"type": "poem"})]}, "messages.0.content.0.type"),
        ({"messages": [user({"text": "x"})]}, "messages.0.content.0.type"),
        ({"messages": [user(CALL)]}, "tool_use"),
        ({"messages": [user(RESULT)]}, "tool_use_id"),
        ({"messages": [user({"type": "text", "text": "a"}), assistant(CALL)]}, "tool_use ids"),
        (
            {"messages": [user({"type": "text", "text": "a"}), assistant(CALL), user(CALL)]},
            "tool_use",
        ),
        (
            {
                "messages": [
                    user({"type": "text", "text": "a"}),
                    assistant(CALL),
                    user({"type": "text", "text": "b"}),
                ]
            },
            "t1",
        ),
        ({"system": 5}, "system"),
        ({"system": [{"type": "image"}]}, "system.0"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"name": "a b", "input_schema": {"type": "object"}}]}, "tools.0.name"),
        ({"tools": [{"name": "a"}]}, "tools.0.input_schema"),
        ({"tools": [TOOL, TOOL]}, "unique"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "maybe"}}, "tool_choice.type"),
        ({"stream": "yes"}, "stream"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"temperature": 2}, "temperature"),
        ({"no_such_field": 1}, "no_such_field"),
    ],
)
def test_wrong_requests_are_refused_with_the_place(changes, place):
    with pytest.raises(ApiError) as caught:
        parse_request(request(**changes), OLD_VERSION)
    assert caught.value.status == 400
    assert caught.value.kind == "invalid_request_error"
    assert place in caught.value.message


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"null"])
def test_a_body_that_is_no_json_object_is_refused(body):
    with pytest.raises(ApiError) as caught:
        parse_request(body, OLD_VERSION)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 1.0},
        {"top_k": 5},
        {
            "messages": [
                user({"type": "text", "text": "a"}),
                assistant({"type": "document", "source": {}}),
            ]
        },
        {"messages": [user({"type": "text", "text": "a", "citations": []})]},
    ],
)
def test_the_new_dialect_refuses_what_the_old_one_took(changes):
    parse_request(request(**changes), OLD_VERSION)
    with pytest.raises(ApiError):
        parse_request(request(**changes), NEW_VERSION)


def test_every_parameter_of_the_sdk_is_known():
    headers_not_fields = {"betas"}
    named = {*Params.__annotations__, *BetaParams.__annotations__} - headers_not_fields
    for name in named:
        message = ""
        try:
            parse_request(request(**{name: None}), OLD_VERSION)
        except ApiError as error:
            message = error.message
        assert "Extra inputs" not in message, name


def test_counting_needs_no_max_tokens():
    body = request(max_tokens=...)
    assert parse_request(body, OLD_VERSION, counting=True).max_tokens == 0


def test_each_error_status_has_the_apis_type():
    assert ApiError(529, "").kind == "overloaded_error"
    assert ApiError(503, "").kind == "api_error"
    assert ApiError(418, "").kind == "invalid_request_error"
    assert set(protocol.STATUS_TYPES) >= {400, 401, 403, 404, 413, 429, 500, 529}


def test_tokens_are_four_bytes_each_rounded_up():
    assert [tokens.count_text(text) for text in ("", "a", "abcd", "abcde", "ääää")] == [
        0,
        1,
        1,
        2,
        2,
    ]


def test_input_tokens_grow_with_every_part():
    plain = [{"role": "user", "content": "hello"}]
    blocks = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    assert tokens.count_input("", plain, []) == tokens.count_input("", blocks, [])
    assert tokens.count_input("system", plain, []) > tokens.count_input("", plain, [])
    assert tokens.count_input("", plain, [TOOL]) > tokens.count_input("", plain, [])
    with_result = [*plain, assistant(CALL), user(RESULT)]
    assert tokens.count_input("", with_result, []) > tokens.count_input("", plain, [])
