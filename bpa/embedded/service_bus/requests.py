"""The links of request and response: ``$cbs`` and ``<queue>/$management``.

A request comes on one link, and its response leaves on another of the same node, which clients
name in three ways: by reply-to, by an equal link name, or not at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import proton

from . import conditions, deliveries, engine
from .broker import Broker
from .claims import Claims
from .inbox import Inbox
from .links import LinkOwner
from .refusals import MessageTooLarge

_CREDIT = 100
_ENVELOPE_BYTES = 64 * 1024
"""What a request may be larger than a message that it carries."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A response, and what must happen before it leaves."""

    properties: dict[str, Any]
    body: Any = None
    when_durable: Callable[[], None] | None = None
    """To be called when what it reports is durable, which it then waits for."""


Answer = Callable[[proton.Message], Reply]


class RequestOwner(LinkOwner, Protocol):
    """What a request link needs of its connection, and attaching one."""

    claims: Claims

    def hold(self, size: int) -> None:
        """Count bytes of responses that wait, less than none for those that left."""

    def reply_link(
        self, node: str, session: Any, name: str, reply_to: str | None
    ) -> ReplyLink | None:
        """Find the link on which to answer."""


class RequestLink:
    """Brings requests to a node."""

    def __init__(
        self, owner: RequestOwner, link: Any, broker: Broker, node: str, answer: Answer
    ) -> None:
        self._owner = owner
        self._link = link
        self._broker = broker
        self._node = node
        self._answer = answer
        self._name = engine.describe(link).name
        self._alive = True
        self._max_bytes = broker.tier.largest_message_bytes + _ENVELOPE_BYTES
        self._inbox = Inbox(owner, link)
        engine.accept_link(link, max_message_bytes=self._max_bytes)
        engine.grant(link, _CREDIT)

    def on_flow(self) -> None:
        """Ignore the peer's hint of what it has."""

    def on_resumed(self) -> None:
        """Nothing waits here for a slow reader."""

    def on_closed(self) -> None:
        """Answer nothing any more."""
        self._alive = False

    def on_delivery(self, delivery: Any) -> None:
        """Answer a whole request."""
        if not self._alive:
            self._inbox.drop(delivery)
            return
        encoded = self._inbox.take(delivery, self._max_bytes)
        if encoded is None:
            return
        if len(encoded) > self._max_bytes:
            refusal = MessageTooLarge(self._max_bytes)
            deliveries.reject(delivery, refusal.condition, str(refusal))
            return
        request = proton.Message()
        try:
            request.decode(encoded)
        except (proton.MessageException, proton.DataException, ValueError) as error:
            deliveries.reject(delivery, conditions.DECODE_ERROR, str(error))
            return
        deliveries.settle(delivery, deliveries.ACCEPTED)
        reply = self._answer(request)
        if reply.when_durable is None:
            self._respond(request, reply)
        else:
            self._broker.journal.when_durable(partial(self._finish, request, reply))

    def _finish(self, request: proton.Message, reply: Reply) -> None:
        assert reply.when_durable is not None
        reply.when_durable()
        self._respond(request, reply)

    def _respond(self, request: proton.Message, reply: Reply) -> None:
        if not self._alive:
            return
        session = engine.link_session(self._link)
        link = self._owner.reply_link(self._node, session, self._name, request.reply_to)
        if link is None:
            return
        response = proton.Message(body=reply.body, properties=reply.properties)
        response.correlation_id = request.id
        link.send(response.encode())


class ReplyLink:
    """Takes responses to a client, as far as its credit goes and as fast as it reads."""

    def __init__(self, owner: RequestOwner, link: Any, node: str) -> None:
        wrapper = engine.describe(link)
        self.node = node
        self.name: str = wrapper.name
        self.address: str | None = wrapper.remote_target.address
        self.session = engine.link_session(link)
        self._owner = owner
        self._link = link
        self._waiting: deque[bytes] = deque()
        self._sent = 0
        engine.accept_link(link)

    def send(self, encoded: bytes) -> None:
        """Send a response when there is credit for it."""
        self._waiting.append(encoded)
        self._owner.hold(len(encoded))
        self.on_flow()

    def on_flow(self) -> None:
        """Send what waits, and answer a drain."""
        while self._waiting and engine.credit(self._link) > 0 and not self._owner.paused:
            self._sent += 1
            tag = self._sent.to_bytes(8, "big")
            encoded = self._waiting.popleft()
            self._owner.hold(-len(encoded))
            deliveries.send(self._link, tag, encoded, settled=True)
            self._owner.sent(len(encoded))
        if engine.draining(self._link) and not self._owner.paused:
            engine.give_credit_back(self._link)

    def on_delivery(self, delivery: Any) -> None:
        """Responses are sent settled; there is nothing to hear of them."""

    def on_resumed(self) -> None:
        """Go on where the slow reader stopped us."""
        self.on_flow()

    def on_closed(self) -> None:
        """Send nothing any more."""
        self._owner.hold(-sum(map(len, self._waiting)))
        self._waiting.clear()
