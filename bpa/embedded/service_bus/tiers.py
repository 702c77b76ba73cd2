"""What a namespace of each tier takes. Pure.

The sizes are those of "Limits by tier" in Microsoft's quotas (azure-docs, service-bus-messaging,
includes/tier-limits.md of July 2026), the range of MaxMessageSizeInKilobytes is from
MicrosoftDocs/azure-docs#81627, and that standard refuses it from #104074.
"""

from __future__ import annotations

from dataclasses import dataclass

from .config import QueueConfig

SMALLEST_SETTABLE_KB = 1024


@dataclass(frozen=True, slots=True)
class Tier:
    """The limits of one tier."""

    name: str
    """As the namespace's MessagingSKU."""
    message_kb: int
    """The largest message of a queue that says nothing of it."""
    largest_message_kb: int
    """What a queue may be set to take; where it is no more than that, nothing can be set."""
    batch_bytes: int
    largest_queue_mb: int

    @property
    def settable(self) -> bool:
        """Whether a queue may take larger messages than others."""
        return self.largest_message_kb > self.message_kb

    def queue_message_kb(self, queue: QueueConfig) -> int:
        """Return the largest message that a queue takes."""
        if queue.max_message_kb is None or not self.settable:
            return self.message_kb
        return queue.max_message_kb

    def message_bytes(self, queue: QueueConfig) -> int:
        """Return the largest message that a queue takes."""
        return self.queue_message_kb(queue) * 1024

    @property
    def largest_message_bytes(self) -> int:
        """The largest message that any queue can take."""
        return self.largest_message_kb * 1024


STANDARD = Tier("Standard", 256, 256, 262_144, 5 * 1024)
PREMIUM = Tier("Premium", 1024, 102_400, 1_048_576, 80 * 1024)
TIERS = {tier.name.lower(): tier for tier in (STANDARD, PREMIUM)}
