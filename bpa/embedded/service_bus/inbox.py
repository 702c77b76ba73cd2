"""Deliveries on their way in, which come in as many transfers as their sender likes."""

from __future__ import annotations

from typing import Any, Protocol

from . import deliveries, engine

CREDIT = 1000
"""How many deliveries a peer may have under way."""


class Feeder(Protocol):
    """What an inbox needs of its connection."""

    @property
    def feeding_batch(self) -> bool:
        """Whether the bytes being taken in begin a batch."""


class Inbox:
    """Joins the transfers of the deliveries on a link that brings us messages."""

    def __init__(self, owner: Feeder, link: Any) -> None:
        self._owner = owner
        self._link = link
        self._pieces: list[bytes] = []
        self._size = 0
        self._in_delivery = False
        self.is_batch = False

    def drop(self, delivery: Any) -> None:
        """Forget a delivery that comes on a detached link, whole or in parts; grant nothing."""
        self._pieces.clear()
        if not deliveries.readable(delivery):
            return
        deliveries.read(self._link, delivery)
        if not deliveries.partial(delivery):
            deliveries.forget(delivery)

    def take(self, delivery: Any, max_bytes: int) -> bytes | None:
        """Return the delivery's bytes when it is whole, None before; cut short when too large."""
        if not deliveries.readable(delivery):
            return None
        if not self._in_delivery:
            self._in_delivery = True
            self.is_batch = self._owner.feeding_batch
        piece = deliveries.read(self._link, delivery)
        if self._size <= max_bytes:
            self._pieces.append(piece)
        self._size += len(piece)
        if deliveries.partial(delivery):
            return None
        whole = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces, self._size, self._in_delivery = [], 0, False
        deliveries.advance(self._link)
        if engine.credit(self._link) < CREDIT // 2:
            engine.grant(self._link, CREDIT - engine.credit(self._link))
        return whole
