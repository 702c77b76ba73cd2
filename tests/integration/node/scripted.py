"""A parent that answers a sandbox by a script, and what it needs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil

from bpa.node.frames import (
    ANY_ARGUMENTS,
    AgentSpec,
    Answer,
    Call,
    Done,
    Failed,
    Fault,
    Frame,
    Log,
    Task,
    ToolSpec,
)
from bpa.node.sandbox import ExitStatus, Sandbox

PROBES = "tests.integration.node.probes:prepare"

POST_INVOICE = ToolSpec("post_invoice", "Post the invoice.", ANY_ARGUMENTS)
ARGUMENTS = {"vendor": "ACME", "route": "auto", "confidence": 0.9, "reason": "It says so."}


def task(document: str = "An invoice of ACME over 12.00 EUR.") -> Task:
    agent = AgentSpec("invoice-classifier", "You classify invoices.", "claude-test", 1024)
    return Task("run-1", agent, document, [POST_INVOICE])


def model_answer(*contents: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "chat_response",
        "messages": [{"type": "message", "role": "assistant", "contents": list(contents)}],
        "response_id": "msg_1",
        "finish_reason": "tool_calls",
        "usage_details": {"input_token_count": 900, "output_token_count": 60},
    }


def tool_call(
    arguments: Any, call_id: str = "toolu_1", name: str = "post_invoice"
) -> dict[str, Any]:
    return {
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }


def obliging(call: Call) -> Answer:
    """Answer a model call with a call of the tool, and the tool's with success."""
    if call.kind == "model":
        return Answer(call.id, ok=True, value=model_answer(tool_call(ARGUMENTS)))
    return Answer(call.id, ok=True, value={"status": 201})


def refuse(call: Call, code: str, message: str) -> Answer:
    return Answer(call.id, ok=False, error=Fault(code, message))


@dataclass
class Conversation:
    """What a sandbox said from its task to its end."""

    calls: list[Call] = field(default_factory=list)
    logs: list[Log] = field(default_factory=list)
    last: Frame | None = None
    status: ExitStatus | None = None

    @property
    def kinds(self) -> list[str]:
        return [call.kind for call in self.calls]


async def converse(sandbox: Sandbox, answer: Callable[[Call], Answer] = obliging) -> Conversation:
    """Serve a sandbox until it is gone."""
    heard = Conversation()
    async with sandbox:
        while (frame := await sandbox.receive()) is not None:
            match frame:
                case Call():
                    heard.calls.append(frame)
                    await sandbox.send(answer(frame))
                case Log():
                    heard.logs.append(frame)
                case Done() | Failed():
                    heard.last = frame
        heard.status = await sandbox.wait()
    return heard


def lives(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
