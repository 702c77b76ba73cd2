"""The stub's answers to requests that are valid and yet odd."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpa.embedded.anthropic import events
from bpa.embedded.anthropic.answers import answer
from bpa.embedded.anthropic.protocol import OLD_VERSION, parse_request
from bpa.embedded.anthropic.rules import Behaviour

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["enum", "type", "required", "const", "properties", "route"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


def said(text, schema, *, max_tokens=1000, behave=Behaviour.ANSWER):
    body = json.dumps(
        {
            "model": "m",
            "max_tokens": max_tokens,
            "messages": [{"role": "user", "content": text}],
            "tools": [{"name": "post_invoice", "input_schema": schema}],
        }
    ).encode()
    return answer(parse_request(body, OLD_VERSION), behave, "toolu_stub_1")


@given(st.text(min_size=1), st.integers(1, 200), st.sampled_from(list(Behaviour)))
def test_any_text_gets_an_answer_within_its_tokens(text, max_tokens, behave):
    schema = {"type": "object", "properties": {"vendor": {"type": "string"}}}
    made = said("x" + text, schema, max_tokens=max_tokens, behave=behave)
    assert 0 <= made.output_tokens <= max_tokens
    assert made.input_tokens > 0
    assert json.dumps(events.message(made, "id", "m"))
    assert b"".join(events.stream(made, "id", "m")).endswith(b"}\n\n")


@given(st.dictionaries(st.sampled_from(["vendor", "route", "kind", "x"]), JSON), JSON)
def test_any_schema_gets_an_answer(properties, required):
    schema = {"type": "object", "properties": properties, "required": required}
    made = said("From: Acme Ltd", schema)
    assert made.content[0]["type"] == "tool_use"


def test_half_a_surrogate_pair_is_carried_as_an_escape():
    made = said("From: Acme \ud800 Ltd", {"type": "object", "properties": {"vendor": {}}})
    assert b"\\ud800" in b"".join(events.stream(made, "id", "m"))


@pytest.mark.parametrize(
    ("allowed", "text", "kind"),
    [
        (["invoice", "credit_note"], "Invoice 1\nAcme", "invoice"),
        (["invoice", "credit_note"], "Credit note 1\nAcme", "credit_note"),
        (["credit_note", "invoice"], "Gutschrift Nr. 1\nAcme", "credit_note"),
        (["invoice", "credit_note"], "Nota de crédito 1\nAcme", "credit_note"),
        (["invoice", "credit_note"], "Rechnung 1\nGutschriften verfallen nie\nAcme", "invoice"),
        (["invoice"], "Credit note 1\nAcme", "invoice"),
        (None, "Credit Note 1\nAcme", "Credit Note"),
        (None, "Handelsrechnung 1\nAcme", "Handelsrechnung"),
    ],
)
def test_the_kind_is_one_of_the_list_or_the_documents_own_word(allowed, text, kind):
    schema = {"type": "string"} | ({} if allowed is None else {"enum": allowed})
    made = said(text, {"type": "object", "properties": {"kind": schema}})
    assert made.content[0]["input"] == {"kind": kind}


def test_another_call_takes_the_next_route_and_the_first_after_the_last():
    routes = ["general", "it"]
    schema = {"type": "object", "properties": {"route": {"enum": routes}}, "required": ["route"]}
    plain, another = (
        said("Invoice of ACME over servers", schema, behave=behave).content[0]["input"]["route"]
        for behave in (Behaviour.ANSWER, Behaviour.ANOTHER_CALL)
    )
    assert {plain, another} == set(routes)


@pytest.mark.parametrize("properties", [None, [], 7, {"route": []}])
def test_another_call_by_a_schema_without_routes_is_the_plain_one(properties):
    schema = {"type": "object", "properties": properties}
    calls = [
        said("x", schema, behave=b).content for b in (Behaviour.ANSWER, Behaviour.ANOTHER_CALL)
    ]
    assert calls[0] == calls[1]
