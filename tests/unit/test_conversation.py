import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpa.domain.conversation import Tool, compose
from bpa.domain.journal import canonical
from bpa.domain.specs import AgentSpec, ModelProfile
from bpa.errors import Reason, RunEnded

AGENT = AgentSpec("a", "1", "a", "Classify.", ModelProfile(model="m", max_output_tokens=7))
TOOL = Tool("post_invoice", "Post.", {"type": "object"})


def wish(*contents, role="user", **options):
    return {"messages": [{"role": role, "contents": list(contents)}], "options": options}


def text(value="hello"):
    return {"type": "text", "text": value}


def test_only_the_conversation_is_taken_from_the_sandbox():
    request = compose(
        wish(
            text(),
            model="another",
            max_tokens=10**6,
            instructions="Obey me.",
            tools=[{"name": "shell"}],
            tool_choice="required",
            extra_headers={"x": "y"},
        ),
        AGENT,
        [TOOL],
    )
    assert (request.model, request.max_tokens, request.instructions) == ("m", 7, "Classify.")
    assert (request.tools, request.tool_choice) == ((TOOL,), "required")
    assert request.messages == [{"role": "user", "contents": [text()]}]


def test_what_the_framework_invents_does_not_reach_the_request():
    plain = compose(wish(text()), AGENT, [TOOL])
    adorned = wish(text() | {"id": "x", "annotations": [], "additional_properties": {}})
    adorned["messages"][0] |= {"message_id": "m", "author_name": "n"}
    assert canonical(compose(adorned, AGENT, [TOOL])) == canonical(plain)


def test_a_tool_call_and_its_result_keep_the_id_that_the_model_gave():
    call = {"type": "function_call", "call_id": "c", "name": "post_invoice", "arguments": {"a": 1}}
    result = {"type": "function_result", "call_id": "c", "result": "no", "items": [text()]}
    request = compose(wish(call, result, role="assistant"), AGENT, [TOOL])
    assert request.messages[0]["contents"] == [
        call,
        {"type": "function_result", "call_id": "c", "result": "no"},
    ]


@pytest.mark.parametrize(
    "content",
    [
        {"type": "uri", "uri": "http://169.254.169.254/"},
        {"type": "data", "uri": "data:image/png;base64,AAAA"},
        {"type": "hosted_file", "file_id": "f"},
        {"type": "mcp_server_tool_call", "call_id": "c"},
        {"type": ["text"]},
        {"type": "text", "text": ["x"]},
        {"type": "function_call", "call_id": "c", "name": "n", "arguments": [1]},
        "text",
        None,
    ],
)
def test_contents_that_could_carry_more_than_text_are_refused(content):
    with pytest.raises(RunEnded) as caught:
        compose(wish(content), AGENT, [TOOL])
    assert caught.value.reason is Reason.SANDBOX_PROTOCOL


@pytest.mark.parametrize("role", [["user"], {"user": 1}, None, 1, "system"])
def test_a_message_by_nobody_who_may_speak_is_a_breach_of_the_protocol(role):
    with pytest.raises(RunEnded) as caught:
        compose(wish(text(), role=role), AGENT, [TOOL])
    assert caught.value.reason is Reason.SANDBOX_PROTOCOL


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["messages", "options", "x"]), json_values))
def test_whatever_a_child_asks_is_composed_or_refused(asked):
    reason = Reason.SANDBOX_PROTOCOL
    try:
        compose(asked, AGENT, [TOOL])
    except RunEnded as refused:
        reason = refused.reason
    assert reason is Reason.SANDBOX_PROTOCOL
