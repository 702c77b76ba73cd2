"""What has happened on a queue since the emulator started, as numbers that only grow. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """Counts of one queue."""

    incoming: int = 0
    """Messages accepted from senders."""
    outgoing: int = 0
    """Deliveries to receivers, repeated ones included."""
    settled: Counter[str] = field(default_factory=Counter)
    """How deliveries and messages ended, by outcome."""
