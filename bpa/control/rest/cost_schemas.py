"""What REST says of costs; the command line reads it too."""

from __future__ import annotations

from bpa.control.ledger import By
from bpa.control.rest.schemas import Document, Time


class Cost(Document, frozen=True):
    """The sum of some model calls. A replayed answer is counted where it was paid for: once."""

    key: str | None
    """The run's, agent's or deployment's id, the model's name, the day; null in the total, and for
    models that nodes of an earlier release asked."""
    epoch: int | None
    """Of the attempt; null otherwise."""
    calls: int
    """Calls that were answered."""
    input_tokens: int
    """Input that was neither read from a cache nor written to it."""
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cost_usd: str
    """An exact decimal. Tokens without a price are not in it."""
    unpriced_tokens: int
    """Of all the tokens, those whose model has no price: they cost an unknown amount."""
    unknown_calls: int
    """Calls whose answers were lost, beside ``calls``; each may have been billed."""
    unknown_tokens: int
    """What they used at most, in no other number here."""
    unknown_usd: str
    """What they cost at most, beside ``costUsd``, an exact decimal."""
    unknown_unpriced_tokens: int
    """Of ``unknownTokens``, those whose model has no price."""


class Costs(Document, frozen=True):
    """Sums of model calls."""

    by: By
    since: Time | None
    until: Time | None
    costs: list[Cost]
    total: Cost | None
    """Of all ``costs``; null where there are more than fit in this answer."""
    next_cursor: str | None
