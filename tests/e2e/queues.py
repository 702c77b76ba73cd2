"""Messages to a queue and back, through the real SDK, and the demonstration's documents."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azure.servicebus.amqp import (
    AmqpAnnotatedMessage,
    AmqpMessageHeader,
    AmqpMessageProperties,
)

from bpa.connectors import OutgoingMessage
from bpa.connectors.service_bus import DeadLetter, DeadLetterReader, ServiceBusPublisher
from bpa.connectors.service_bus.client import SOCKET_POLL_S, close, connect, opened
from tests.eventually import eventually

DEMO = Path(__file__).parents[2] / "demo"
FIELDS = ("vendor", "route", "invoice_id", "currency", "total", "issued_on", "kind")


@dataclass(frozen=True, slots=True)
class Document:
    """A document of the demonstration, with what must become of it."""

    name: str
    body: bytes
    content_type: str
    expected: Mapping[str, Any]


def documents(outcome: str = "completed") -> list[Document]:
    """Return the demonstration's documents that end in this way, in order."""
    found = []
    for line in (DEMO / "expected.jsonl").read_text("utf-8").splitlines():
        expected = json.loads(line)
        if expected["outcome"] == outcome:
            path = DEMO / expected["file"]
            found.append(Document(path.name, path.read_bytes(), expected["content_type"], expected))
    return found


def new_trace() -> tuple[str, str]:
    """Return the traceparent of a sender, and its trace's id."""
    trace_id = uuid.uuid4().hex
    return f"00-{trace_id}-{uuid.uuid4().hex[:16]}-01", trace_id


async def send(
    connection_string: str, bodies: Sequence[tuple[bytes, str]], queue: str = "invoices"
) -> list[str]:
    """Send bodies with their content types; return the trace id of each."""
    traces = [new_trace() for _ in bodies]
    messages = [
        OutgoingMessage(
            body=body, content_type=kind, message_id=f"m-{trace_id}", traceparent=traceparent
        )
        for (body, kind), (traceparent, trace_id) in zip(bodies, traces, strict=True)
    ]
    async with ServiceBusPublisher(connection_string, queue) as publisher:
        await publisher.send(messages)
    return [trace_id for _, trace_id in traces]


async def send_documents(
    connection_string: str, chosen: Sequence[Document], queue: str = "invoices"
) -> list[str]:
    """Send documents; return the trace id of each."""
    return await send(connection_string, [(d.body, d.content_type) for d in chosen], queue)


async def send_amqp_value(connection_string: str, value: Any, queue: str = "invoices") -> str:
    """Send a message whose body is an AMQP value, no bytes; return its trace's id."""
    traceparent, trace_id = new_trace()
    message = AmqpAnnotatedMessage(
        value_body=value,
        header=AmqpMessageHeader(),
        properties=AmqpMessageProperties(
            message_id=f"m-{trace_id}", content_type="application/json"
        ),
        application_properties={"traceparent": traceparent},
    )
    sender = connect(connection_string).get_queue_sender(queue, socket_timeout=SOCKET_POLL_S)
    open_sender = await opened(sender, queue)
    try:
        await sender.send_messages(message)
    finally:
        await close(open_sender)
    return trace_id


async def waiting(connection_string: str, queue: str = "invoices") -> list[str]:
    """Return the ids of the messages in the queue, locked ones included, without taking them."""
    receiver = connect(connection_string).get_queue_receiver(queue, socket_timeout=SOCKET_POLL_S)
    open_receiver = await opened(receiver, queue)
    try:
        return [str(m.message_id) for m in await receiver.peek_messages(100, sequence_number=1)]
    finally:
        await close(open_receiver)


async def emptied(connection_string: str, queue: str = "invoices", within_s: float = 5.0) -> None:
    """Wait until no message is left in the queue, dead letters aside."""

    async def probe() -> bool:
        left = await waiting(connection_string, queue)
        assert not left, f"{len(left)} left in {queue}: {left[:5]}"
        return True

    await eventually(probe, within_s=within_s, every_s=0.1)


async def dead_letters(connection_string: str, queue: str = "invoices") -> dict[str, DeadLetter]:
    """Return the queue's dead letters by the trace id that they were sent with."""
    letters = await DeadLetterReader(connection_string, queue).peek(1000)
    return {(letter.message.message_id or "")[2:]: letter for letter in letters}
