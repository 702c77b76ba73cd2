"""How the target can be told to fail. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import msgspec


class Drop(StrEnum):
    """When to cut the connection: before applying, or after it without an answer."""

    BEFORE = "before"
    AFTER = "after"


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which requests a rule is about; all that is given must fit."""

    vendor: str | None = None
    """The body's vendor, exactly."""
    invoice_id: str | None = None
    """The body's invoice id, exactly."""
    key_prefix: str | None = None
    """What the idempotency key begins with."""
    contains: str | None = None
    """This stands in the body as it was sent."""

    def fits(self, key: str, body: bytes, fields: dict[str, Any]) -> bool:
        """Say whether a request is meant."""
        if self.vendor is not None and self.vendor != fields.get("vendor"):
            return False
        if self.invoice_id is not None and self.invoice_id != fields.get("invoice_id"):
            return False
        if self.key_prefix is not None and not key.startswith(self.key_prefix):
            return False
        return self.contains is None or self.contains.encode() in body


class TargetRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One rule of the target's script; without status and drop it only slows down."""

    match: Match = Match()
    every: Annotated[int, msgspec.Meta(ge=1)] = 1
    """Apply to each n-th request that matches."""
    times: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """Apply so often, then no more; null is for ever."""
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] | None = None
    """Answer with this status and apply nothing."""
    retry_after_s: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """Send ``Retry-After`` with these seconds, rounded up."""
    latency_ms: Annotated[float, msgspec.Meta(ge=0, le=600_000)] = 0
    """Wait so long before anything else, in ms; the key is in flight meanwhile."""
    drop: Drop | None = None
    """Cut the connection."""
