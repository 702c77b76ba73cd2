"""The agent in its sandbox, from task to end, against a parent that follows a script."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from agent_framework import ChatResponse, Content, Message

from bpa.domain.specs import EFFECTS_MAX
from bpa.node import agent
from bpa.node.frames import AgentSpec, Answer, Call, Done, Failed, Task
from bpa.node.sandbox import SandboxLimits
from bpa.node.zygote import Zygote
from tests.integration.node.scripted import (
    ARGUMENTS,
    POST_INVOICE,
    Conversation,
    converse,
    model_answer,
    obliging,
    refuse,
    task,
    tool_call,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def zygote() -> AsyncIterator[Zygote]:
    async with Zygote(limits=SandboxLimits()) as zygote:
        yield zygote


def muddled_once(call: Call) -> Answer:
    """Answer the first model call with a tool that there is not, the second as it should be."""
    if call.kind == "model" and call.id == 1:
        wrong = tool_call(ARGUMENTS, name="post_nothing")
        return Answer(call.id, ok=True, value=model_answer(wrong))
    return obliging(call)


def wire(conversation: Conversation) -> list[bytes]:
    return [msgspec.msgpack.encode(call) for call in conversation.calls]


async def test_an_agent_asks_the_model_once_calls_the_tool_and_is_done(zygote: Zygote) -> None:
    conversation = await converse(await zygote.spawn(task("An invoice.")))
    model, tool = conversation.calls
    assert (model.id, model.kind) == (1, "model")
    assert model.request == {
        "messages": [
            {
                "type": "message",
                "role": "user",
                "contents": [{"type": "text", "text": "An invoice."}],
            }
        ],
        "options": {
            "allow_multiple_tool_calls": False,
            "instructions": "You classify invoices.",
            "max_tokens": 1024,
            "model": "claude-test",
            "tool_choice": "required",
            "tools": [
                {
                    "name": POST_INVOICE.name,
                    "description": POST_INVOICE.description,
                    "parameters": POST_INVOICE.parameters,
                }
            ],
        },
    }
    assert (tool.id, tool.kind) == (2, "tool")
    assert tool.request == {"name": "post_invoice", "arguments": ARGUMENTS}
    assert conversation.last == Done("")
    assert conversation.status is not None
    assert conversation.status.code == 0


async def test_a_conversation_has_a_turn_for_each_effect_and_one_for_the_last_word() -> None:
    assert agent._MODEL_CALLS_MAX == EFFECTS_MAX + 1


async def test_an_agent_that_may_call_more_ends_when_the_model_says_so(zygote: Zygote) -> None:
    def twice(call: Call) -> Answer:
        if call.kind == "model" and len(call.request["messages"]) > 4:
            text = {"type": "text", "text": "All is posted."}
            return Answer(call.id, ok=True, value=model_answer(text))
        return obliging(call)

    several = msgspec.structs.replace(task(), one_tool_call=False)
    conversation = await converse(await zygote.spawn(several), twice)
    assert conversation.kinds == ["model", "tool", "model", "tool", "model"]
    assert conversation.last == Done("All is posted.")
    first, second = conversation.calls[0].request, conversation.calls[2].request
    assert first["options"]["tool_choice"] == "required"
    assert "tool_choice" not in second["options"]
    (result,) = second["messages"][-1]["contents"]
    assert (result["type"], result["result"]) == ("function_result", '{"status": 201}')


async def test_the_framework_rebuilds_the_messages_of_a_request(zygote: Zygote) -> None:
    conversation = await converse(await zygote.spawn(task("An invoice.")), muddled_once)
    messages = [Message.from_dict(message) for message in conversation.calls[1].request["messages"]]
    assert [message.role for message in messages] == ["user", "assistant", "tool"]
    assert messages[0].text == "An invoice."
    assert messages[1].contents[0].call_id == messages[2].contents[0].call_id == "toolu_1"


async def test_an_answer_in_the_framework_s_own_form_is_understood(zygote: Zygote) -> None:
    def own_form(call: Call) -> Answer:
        if call.kind == "tool":
            return obliging(call)
        content = Content.from_function_call("toolu_9", "post_invoice", arguments=ARGUMENTS)
        response = ChatResponse(
            messages=[Message("assistant", ["I post it.", content], message_id="msg_1")],
            response_id="msg_1",
            model="claude-test",
            created_at="2026-01-01T00:00:00Z",
            finish_reason="tool_calls",
            usage_details={"input_token_count": 1, "output_token_count": 2},
        )
        return Answer(call.id, ok=True, value=response.to_dict())

    conversation = await converse(await zygote.spawn(task()), own_form)
    assert conversation.kinds == ["model", "tool"]
    assert conversation.last == Done("I post it.")


@pytest.mark.parametrize(
    ("arguments", "handed_on"),
    [
        ({"vendor": 7, "route": "nowhere"}, {"vendor": 7, "route": "nowhere"}),
        ({"self": 1, "context": {"a": [None]}}, {"self": 1, "context": {"a": [None]}}),
        ({}, {}),
        ("", {}),
        (None, {}),
        ('{"vendor": "ACME"}', {"vendor": "ACME"}),
        ('{"vendor": ', {"raw": '{"vendor": '}),
        ("[1]", {"raw": [1]}),
        ([1], {"raw": [1]}),
        ([], {"raw": []}),
        (7, {"raw": 7}),
    ],
)
async def test_whatever_arguments_the_model_gives_are_handed_on(
    zygote: Zygote, arguments: object, handed_on: dict[str, Any]
) -> None:
    def careless(call: Call) -> Answer:
        if call.kind == "tool":
            return obliging(call)
        return Answer(call.id, ok=True, value=model_answer(tool_call(arguments)))

    conversation = await converse(await zygote.spawn(task()), careless)
    assert conversation.kinds == ["model", "tool"]
    assert conversation.calls[1].request == {"name": "post_invoice", "arguments": handed_on}
    assert conversation.last == Done("")


async def test_a_tool_that_there_is_not_is_told_to_the_model_and_reaches_nobody(
    zygote: Zygote,
) -> None:
    conversation = await converse(await zygote.spawn(task()), muddled_once)
    assert conversation.kinds == ["model", "model", "tool"]
    again = conversation.calls[1].request
    assert "tool_choice" not in again["options"]
    (complaint,) = again["messages"][-1]["contents"]
    assert complaint["type"] == "function_result"
    assert "not found" in complaint["result"]
    assert conversation.calls[2].request["arguments"] == ARGUMENTS
    assert conversation.last == Done("")


async def test_two_executions_with_the_same_answers_send_the_same_bytes() -> None:
    executions: list[list[bytes]] = []
    for _ in range(2):  # two zygotes: two hash seeds
        async with Zygote(limits=SandboxLimits()) as zygote:
            for _ in range(2):
                conversation = await converse(await zygote.spawn(task()), muddled_once)
                executions.append(wire(conversation))
    assert len(executions[0]) == 3
    assert all(execution == executions[0] for execution in executions)


async def test_a_model_that_calls_no_tool_ends_the_agent_with_its_words(zygote: Zygote) -> None:
    def talkative(call: Call) -> Answer:
        words = {"type": "text", "text": "I would rather not."}
        return Answer(call.id, ok=True, value=model_answer(words))

    conversation = await converse(await zygote.spawn(task()), talkative)
    assert conversation.kinds == ["model"]
    assert conversation.last == Done("I would rather not.")


async def test_a_model_that_never_gets_it_right_is_not_asked_for_ever(zygote: Zygote) -> None:
    def muddled(call: Call) -> Answer:
        wrong = tool_call({}, f"toolu_{call.id}", name="post_nothing")
        return Answer(call.id, ok=True, value=model_answer(wrong))

    conversation = await converse(await zygote.spawn(task()), muddled)
    assert set(conversation.kinds) == {"model"}
    assert 1 < len(conversation.calls) < 10
    assert isinstance(conversation.last, Done)
    (warning,) = conversation.logs
    assert (warning.level, warning.event) == ("warning", "agent_framework.warning")
    assert "consecutive function call errors" in warning.fields["message"]


@pytest.mark.parametrize("kind", ["model", "tool"])
async def test_a_refused_call_ends_the_agent(zygote: Zygote, kind: str) -> None:
    def refusing(call: Call) -> Answer:
        if call.kind == kind:
            return refuse(call, "budget_exceeded", "1000 tokens are spent")
        return obliging(call)

    conversation = await converse(await zygote.spawn(task()), refusing)
    assert conversation.calls[-1].kind == kind
    assert conversation.last == Failed("Refused: budget_exceeded: 1000 tokens are spent")


@pytest.mark.parametrize(
    "value", [None, {}, {"messages": 7}, {"messages": [{"role": "assistant", "contents": [{}]}]}]
)
async def test_an_answer_that_is_no_response_ends_the_agent_with_a_word(
    zygote: Zygote, value: object
) -> None:
    def senseless(call: Call) -> Answer:
        return Answer(call.id, ok=True, value=value)

    conversation = await converse(await zygote.spawn(task()), senseless)
    assert isinstance(conversation.last, Done | Failed)
    assert conversation.status is not None
    assert conversation.status.code == 0


async def test_text_that_no_frame_can_carry_fails_the_run_and_not_the_protocol(
    zygote: Zygote,
) -> None:
    def surrogate(call: Call) -> Answer:
        call_tool = tool_call({}) | {"arguments": '{"vendor": "\\ud800", "route": "auto"'
                                                 ', "confidence": 1, "reason": ""}'}  # fmt: skip
        return Answer(call.id, ok=True, value=model_answer(call_tool))

    conversation = await converse(await zygote.spawn(task()), surrogate)
    assert isinstance(conversation.last, Failed)
    assert "cannot be encoded" in conversation.last.error


async def test_an_agent_that_waits_for_an_answer_can_be_cancelled_politely(
    zygote: Zygote,
) -> None:
    async with await zygote.spawn(task()) as sandbox:
        assert isinstance(await sandbox.receive(), Call)
        sandbox.cancel()
        assert await sandbox.receive() == Failed("Cancelled: the node asked to stop")
        assert await sandbox.receive() is None
        assert (await sandbox.wait()).code == 0


async def test_a_task_without_tools_is_answered_in_words(zygote: Zygote) -> None:
    def words(call: Call) -> Answer:
        return Answer(call.id, ok=True, value=model_answer({"type": "text", "text": "Fine."}))

    without = Task("run-2", AgentSpec("talker", "Talk.", "claude-test", 10), "Hello", [])
    conversation = await converse(await zygote.spawn(without), words)
    assert conversation.calls[0].request["options"]["tools"] == []
    assert conversation.last == Done("Fine.")


async def test_fifty_agents_in_turn_and_eight_at_once_come_to_their_end(zygote: Zygote) -> None:
    for number in range(50):
        conversation = await converse(await zygote.spawn(task(f"invoice {number}")))
        text = conversation.calls[0].request["messages"][0]["contents"][0]["text"]
        assert text == f"invoice {number}"
        assert conversation.last == Done("")

    async def one(number: int) -> Conversation:
        return await converse(await zygote.spawn(task(f"invoice {number}")))

    together = await asyncio.gather(*(one(number) for number in range(8)))
    texts = {c.calls[0].request["messages"][0]["contents"][0]["text"] for c in together}
    assert texts == {f"invoice {number}" for number in range(8)}
    assert all(conversation.kinds == ["model", "tool"] for conversation in together)
