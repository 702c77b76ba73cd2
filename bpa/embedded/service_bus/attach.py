"""Decide what an attach is for: which node, which kind of link, or why not."""

from __future__ import annotations

import time
from typing import Any

from . import cbs, engine
from .broker import Broker
from .claims import node_path
from .links import IncomingLink, LinkHandler, OutgoingLink
from .management import Management
from .queue import DEAD_LETTER_SUFFIX
from .refusals import EntityNotFound, NotAllowed, NotServed, NotToDeadLetters, Refused, Unauthorized
from .requests import Answer, ReplyLink, RequestLink, RequestOwner

_MANAGEMENT_SUFFIX = "/$management"
_NOT_SERVED = {
    "/subscriptions/": "Topics and subscriptions are not served yet.",
    "/$transfer/": "Forwarding is not served yet, nor are its dead letters.",
}
"""What to say of a path with such a part."""
_SESSION_FILTER = "com.microsoft:session-filter"


def attach(owner: RequestOwner, link: Any, broker: Broker) -> LinkHandler:
    """Open a link and return what serves it.

    Raises:
        Refused: There is no such node, not in this direction, or its status forbids it.
    """
    outgoing = engine.sends(link)
    node = link_node(link)
    if node == cbs.NODE:
        desk = cbs.TokenDesk(owner.claims)
        return _request_or_reply(owner, link, broker, desk.answer)
    if engine.coordinates(link):
        raise NotServed("Transactions are not served yet.")
    if not owner.claims.cover(node, time.time()):
        claim = "Listen" if outgoing else "Send"
        text = f"Unauthorized access. '{claim}' claim(s) are required for '{node}'."
        raise Unauthorized(text)
    management = _management(broker, node)
    if management is not None:
        return _request_or_reply(owner, link, broker, management.answer)
    queue = broker.find(node)
    if queue is None:
        raise _unknown(link_path(link))
    if outgoing:
        if _SESSION_FILTER in engine.source_filters(link):
            text = "A session cannot be accepted on an entity that does not require sessions."
            raise NotAllowed(text)
        return OutgoingLink(owner, link, broker, queue)
    if node.endswith(DEAD_LETTER_SUFFIX):
        raise NotToDeadLetters
    return IncomingLink(owner, link, broker, queue)


def link_node(link: Any) -> str:
    """Return the node at our end of a link."""
    wrapper = engine.describe(link)
    terminus = wrapper.remote_source if engine.sends(link) else wrapper.remote_target
    return node_path(terminus.address)


def link_path(link: Any) -> str:
    """Return the path of the queue that a link is for, or whose management it is for."""
    return link_node(link).removesuffix(_MANAGEMENT_SUFFIX)


def _unknown(path: str) -> Refused:
    for part, text in _NOT_SERVED.items():
        if part in path:
            return NotServed(text)
    return EntityNotFound(path)


def _request_or_reply(
    owner: RequestOwner, link: Any, broker: Broker, answer: Answer
) -> LinkHandler:
    node = link_node(link)
    if engine.sends(link):
        return ReplyLink(owner, link, node)
    return RequestLink(owner, link, broker, node, answer)


def _management(broker: Broker, node: str) -> Management | None:
    if not node.endswith(_MANAGEMENT_SUFFIX):
        return None
    queue = broker.find(node.removesuffix(_MANAGEMENT_SUFFIX))
    return None if queue is None else Management(broker, queue)
