"""The agent inside a sandbox: a Microsoft Agent Framework agent whose every wish is a frame.

`prepare` runs once in the zygote: it imports the framework, holds a rehearsal so that whatever is
built lazily is built before the fork, and returns the function that each child runs. A conversation
is one model call that has to use a tool, and that tool's call; a tool that succeeded is the end of
it, unless the task allows more calls: then it ends when the model says so. The model's arguments
are handed on as they came: whether they fit is the broker's to judge.

The request of a ``model`` call holds the messages in the framework's own form, less the ids it
invents, so that two executions with the same answers send the same bytes::

    {"messages": [{"type": "message", "role": "user",
                   "contents": [{"type": "text", "text": "<the document>"}]}],
     "options": {"model": ..., "max_tokens": ..., "instructions": ..., "tool_choice": "required",
                 "allow_multiple_tool_calls": false,
                 "tools": [{"name": ..., "description": ..., "parameters": {...}}]}}

Its answer's value is ``ChatResponse.to_dict()``. A ``tool`` call is ``{"name", "arguments"}``.
"""

from __future__ import annotations

import asyncio
import logging
import selectors
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, NoReturn

from agent_framework import (
    BaseChatClient,
    ChatResponse,
    ChatResponseUpdate,
    Content,
    FunctionInvocationContext,
    FunctionInvocationLayer,
    FunctionMiddleware,
    FunctionTool,
    Message,
    MiddlewareFailure,
    MiddlewareTermination,
    RawAgent,
    ResponseStream,
)
from agent_framework.observability import disable_instrumentation

from bpa.node.channel import Channel
from bpa.node.frames import (
    ANY_ARGUMENTS,
    AgentSpec,
    Answer,
    Done,
    Failed,
    FrameLimits,
    Log,
    Task,
    ToolSpec,
    encode,
)

_MODEL_CALLS_MAX = 6
"""One for each effect that a deployment may allow (``EFFECTS_MAX``), and one for the last word."""
_REHEARSALS = 32
_ERROR_CHARS_MAX = 2_000

Work = Callable[[Channel], None]


class BrokerChatClient(FunctionInvocationLayer[Any], BaseChatClient[Any]):
    """A chat client that asks the node."""

    def __init__(self, channel: Channel, *, one_tool_call: bool) -> None:
        super().__init__(
            middleware=[CallThrough(channel, one_call=one_tool_call)],
            function_invocation_configuration={
                "max_iterations": _MODEL_CALLS_MAX,
                "allow_concurrent_invocation": False,
                "include_detailed_errors": True,
            },
        )
        self._channel = channel

    def _inner_get_response(
        self,
        *,
        messages: Sequence[Message],
        stream: bool,
        options: Mapping[str, Any],
        **_kwargs: Any,
    ) -> Awaitable[ChatResponse[Any]] | ResponseStream[ChatResponseUpdate, ChatResponse[Any]]:
        if stream:
            raise NotImplementedError("the broker answers whole responses only")
        return self._ask(messages, options)

    async def _ask(
        self, messages: Sequence[Message], options: Mapping[str, Any]
    ) -> ChatResponse[Any]:
        answer = self._channel.call("model", model_request(messages, options))
        response = ChatResponse.from_dict(answer)
        for message in response.messages:
            for content in message.contents:
                given: object = content.arguments
                if not isinstance(given, str | Mapping | None):
                    content.arguments = {"raw": given}  # as the framework does with other text
        return response


class CallThrough(FunctionMiddleware):
    """Make each tool call a frame, with whatever arguments came.

    The first tool that succeeded ends the conversation where one call is all there is to do: a
    second answer costs tokens.
    """

    def __init__(self, channel: Channel, *, one_call: bool) -> None:
        self._channel = channel
        self._one_call = one_call

    async def process(
        self, context: FunctionInvocationContext, call_next: Callable[[], Awaitable[None]]
    ) -> None:
        """Call the tool; then stop the loop, where it ends, in the framework's own way."""
        request = {"name": context.function.name, "arguments": context.arguments}
        try:
            context.result = self._channel.call("tool", request)
        except Exception as error:  # anything else would be told to the model as the tool's result
            raise MiddlewareFailure(_describe(error)) from error
        if self._one_call:
            raise MiddlewareTermination(result=context.result)


def model_request(messages: Sequence[Message], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request of a model call: plain values that depend on the conversation alone."""
    plain = {name: value for name, value in options.items() if value is not None}
    plain["tools"] = [
        {"name": tool.name, "description": tool.description, "parameters": tool.parameters()}
        for tool in options.get("tools") or []
    ]
    return {"messages": [_message(message) for message in messages], "options": plain}


def _message(message: Message) -> dict[str, Any]:
    return {
        "type": "message",
        "role": message.role,
        "contents": [_content(content) for content in message.contents],
    }


def _content(content: Content) -> dict[str, Any]:
    plain = content.to_dict(exclude={"id"})  # the framework's; the model's own is the call_id
    if not plain.get("additional_properties"):
        plain.pop("additional_properties", None)
    return plain


def build_agent(task: Task, channel: Channel) -> RawAgent[Any]:
    """Return the task's agent; it reaches nothing but ``channel``."""
    return RawAgent(
        BrokerChatClient(channel, one_tool_call=task.one_tool_call),
        task.agent.instructions,
        id=task.agent.name,
        name=task.agent.name,
        tools=[_tool(spec) for spec in task.tools],
        default_options={
            "model": task.agent.model,
            "max_tokens": task.agent.max_output_tokens,
            "tool_choice": "required" if task.tools else "none",
            "allow_multiple_tool_calls": False,
        },
    )


def _tool(spec: ToolSpec) -> FunctionTool:
    def invoke(**_arguments: Any) -> NoReturn:
        raise NotImplementedError("a tool is called through the channel")

    return FunctionTool(
        name=spec.name,
        description=spec.description,
        input_model=spec.parameters,
        func=invoke,  # one without a function is not called at all
    )


async def converse(task: Task, channel: Channel) -> str:
    """Let the agent work on the task's document and return its last words, possibly none."""
    response = await build_agent(task, channel).run(task.document)
    return response.text


def prepare() -> Work:
    """Return the work of one child, with everything it needs already built."""
    disable_instrumentation()
    warnings = _FrameLog()
    framework = logging.getLogger("agent_framework")
    framework.addHandler(warnings)
    framework.setLevel(logging.WARNING)
    framework.propagate = False
    loop = asyncio.SelectorEventLoop(_NothingToSelect())

    def work(channel: Channel) -> None:
        warnings.channel = channel
        try:
            task = channel.task()
            text = loop.run_until_complete(converse(task, channel))
        except Exception as error:  # noqa: BLE001 - the whole of the child's work ends in a frame
            cause = error.__cause__ if isinstance(error, MiddlewareFailure) else None
            channel.send(Failed(_describe(cause or error)))
        else:
            channel.send(Done(text))

    for _ in range(_REHEARSALS):
        _rehearse(work)
    return work


def _describe(error: BaseException) -> str:
    """Name the error in one line that is always text, without locals or a traceback."""
    line = f"{type(error).__name__}: {error}"[:_ERROR_CHARS_MAX]
    return line.encode("utf-8", "replace").decode("utf-8")


class _FrameLog(logging.Handler):
    """Send what the framework warns of to the node's log; a child has no other."""

    channel: Channel | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self.channel is not None:
            level: Literal["warning", "error"] = (
                "error" if record.levelno >= logging.ERROR else "warning"
            )
            message = record.getMessage()[:_ERROR_CHARS_MAX]
            fields = {"logger": record.name, "message": message}
            self.channel.send(Log(level, "agent_framework.warning", fields))


class _NothingToSelect(selectors.BaseSelector):
    """The selector of a loop that has no descriptors: a child waits in `Channel.call` alone."""

    def __init__(self) -> None:
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = selectors.SelectorKey(fileobj, 0, events, data)
        self._keys[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("the agent waits for something that cannot happen in a sandbox")
        if timeout > 0:
            time.sleep(timeout)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


# -- the rehearsal ---------------------------------------------------------------------------------

_REHEARSAL = Task(
    run_id="rehearsal",
    agent=AgentSpec("rehearsal", "Post the document.", "none", 1),
    document="rehearsal",
    tools=[ToolSpec("post", "Post.", ANY_ARGUMENTS)],
)


def _rehearse(work: Work) -> None:
    """Hold one whole conversation over a real socket whose answers are already written."""
    call = Content.from_function_call("call", "post", arguments='{"vendor": "v", "confidence": 1}')
    response = ChatResponse(
        messages=[Message("assistant", [Content.from_text("posting"), call])],
        finish_reason="tool_calls",
        usage_details={"input_token_count": 1, "output_token_count": 1},
    )
    answers = (Answer(1, ok=True, value=response.to_dict()), Answer(2, ok=True, value={}))
    parent, child = socket.socketpair()
    with parent, child:
        parent.sendall(b"".join(encode(frame) for frame in (_REHEARSAL, *answers)))
        work(Channel(child, FrameLimits()))
