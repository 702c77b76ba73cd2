"""azure-servicebus with the methods of ``bare``: one sender and one receiver."""

from __future__ import annotations

from azure.servicebus import ServiceBusClient, ServiceBusMessage

from tests.bench.bare import BODY_BYTES
from tests.bench.brokers import QUEUE

_BATCH = 100
_WAIT_S = 30
_SOCKET_TIMEOUT_S = 0.002
"""How long it waits for the batch to fill after a first message; it would wait 0.2 s by itself."""


class SdkClient:
    """A connection for the sender, and one for the receiver."""

    def __init__(self, connection_string: str) -> None:
        self._client = ServiceBusClient.from_connection_string(connection_string)
        self._sender = self._client.get_queue_sender(QUEUE)
        self._receiver = self._client.get_queue_receiver(QUEUE, socket_timeout=_SOCKET_TIMEOUT_S)

    def close(self) -> None:
        """Close both."""
        self._client.close()

    def send(self, count: int) -> None:
        """Send so many in batches of a hundred; return when all are accepted."""
        for first in range(0, count, _BATCH):
            body = b"x" * BODY_BYTES
            batch = [ServiceBusMessage(body) for _ in range(first, min(first + _BATCH, count))]
            self._sender.send_messages(batch)

    def receive(self, count: int) -> None:
        """Receive so many and complete each."""
        while count:
            found = self._receiver.receive_messages(min(_BATCH, count), max_wait_time=_WAIT_S)
            for message in found:
                self._receiver.complete_message(message)
            count -= len(found)
