"""Invoices for the queue, each with a number of its own, sent at a steady rate."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections import Counter
from pathlib import Path

from bpa.connectors import OutgoingMessage
from bpa.connectors.service_bus import ServiceBusPublisher
from bpa.errors import Unavailable
from tests.chaos.pacing import lasting
from tests.chaos.servers import QUEUE

_TEMPLATE = Path(__file__).parents[2] / "demo/invoices/001-bergblick-bb-00036.json"
_PAUSE_S = 0.1


class Load:
    """Messages on their way to the queue.

    Args:
        connection_string: Of the broker.
        name: What their numbers begin with.
        least: How many at least.
        per_s: How many a second.
    """

    def __init__(self, connection_string: str, name: str, least: int, per_s: float) -> None:
        self._connection_string = connection_string
        self._name = name
        self._least = least
        self._per_s = per_s
        self._invoice = json.loads(_TEMPLATE.read_text("utf-8"))
        self._is_enough = False
        self.accepted: set[str] = set()
        """The invoice ids of the messages that the broker has said it took."""
        self.unanswered: Counter[str] = Counter()
        """How often a message was sent without an answer: the broker may have taken it, or not."""

    async def run(self) -> None:
        """Send until told that it is enough; what has no answer is sent again, as senders do."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with contextlib.AsyncExitStack() as stack:
            publisher = ServiceBusPublisher(self._connection_string, QUEUE)
            stack.push_async_callback(publisher.aclose)
            for number in itertools.count():
                if number >= self._least and self._is_enough:
                    break
                await lasting(started + number / self._per_s - loop.time())
                await self._send(publisher, self.invoice_id(number))

    def invoice_id(self, number: int) -> str:
        """Return the number of the n-th invoice, counted from 0; its message has the same."""
        return f"{self._name}{number:05}"

    def enough(self) -> None:
        """Send no more than the least."""
        self._is_enough = True

    async def _send(self, publisher: ServiceBusPublisher, invoice_id: str) -> None:
        body = json.dumps({**self._invoice, "invoice_id": invoice_id}).encode()
        message = OutgoingMessage(body=body, message_id=invoice_id)
        while invoice_id not in self.accepted:
            try:
                await publisher.send([message])
                self.accepted.add(invoice_id)
            except Unavailable:
                self.unanswered[invoice_id] += 1
                await lasting(_PAUSE_S)
