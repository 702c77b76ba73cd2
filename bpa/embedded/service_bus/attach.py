"""Decide what an attach is for: which node, which kind of link, or why not."""

from __future__ import annotations

import re
from typing import Any

from . import cbs, engine
from .broker import Broker
from .links import IncomingLink, LinkHandler, OutgoingLink
from .management import Management
from .queue import DEAD_LETTER_SUFFIX
from .refusals import EntityNotFound, NotAllowed, NotServed
from .requests import Answer, ReplyLink, RequestLink, RequestOwner

_MANAGEMENT_SUFFIX = "/$management"
_AUTHORITY = re.compile(r"^[a-z]+://[^/]*/", re.IGNORECASE)
_SESSION_FILTER = "com.microsoft:session-filter"


def node_path(address: str | None) -> str:
    """Return the lower-case path of an address, with or without scheme and authority."""
    return _AUTHORITY.sub("", address or "").strip("/").lower()


def attach(owner: RequestOwner, link: Any, broker: Broker) -> LinkHandler:
    """Open a link and return what serves it.

    Raises:
        Refused: There is no such node, not in this direction, or its status forbids it.
    """
    wrapper = engine.describe(link)
    outgoing = engine.sends(link)
    source, target = wrapper.remote_source.address, wrapper.remote_target.address
    node = node_path(source if outgoing else target)
    answer = _answer(broker, node)
    if answer is not None:
        if outgoing:
            return ReplyLink(owner, link, node)
        return RequestLink(owner, link, broker, node, answer)
    queue = broker.find(node)
    if queue is None:
        raise EntityNotFound(f"The messaging entity '{node}' could not be found.")
    if outgoing:
        if _SESSION_FILTER in engine.source_filters(link):
            raise NotServed("Sessions are not served yet.")
        return OutgoingLink(owner, link, broker, queue)
    if node.endswith(DEAD_LETTER_SUFFIX):
        raise NotAllowed("Messages cannot be sent to a dead-letter queue.")
    return IncomingLink(owner, link, broker, queue)


def _answer(broker: Broker, node: str) -> Answer | None:
    if node == cbs.NODE:
        return cbs.answer
    if node.endswith(_MANAGEMENT_SUFFIX):
        queue = broker.find(node.removesuffix(_MANAGEMENT_SUFFIX))
        if queue is not None:
            return Management(broker, queue).answer
    return None
