"""What control, the target and the queue say became of the documents; values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRun:
    """A run, as control tells it."""

    run_id: str
    file: str
    """The name of the document whose message it is; ``?`` when it is none of ours."""
    status: str
    reason: str = ""
    detail: str = ""
    waiting_reason: str = ""
    sequence_number: int = 0
    """The broker's number of its message."""
    dispositions: tuple[str, ...] = ()
    """How its deliveries were settled, oldest first; empty text while one is not."""
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: Decimal = Decimal(0)
    latency_ms: float | None = None
    """From enqueued to the committed end; None while it lives."""

    @property
    def effect_key(self) -> str:
        """The idempotency key of its effect: ``<run_id>:<sequence number>``."""
        return f"{self.run_id}:{self.sequence_number}"

    @property
    def has_ended(self) -> bool:
        """Whether it is completed or dead-lettered."""
        return self.status in ("completed", "dead_lettered")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenInvoice:
    """What the target applied under one key."""

    key: str
    body: Mapping[str, Any]
    bodies: int = 1
    """How many different bodies came under the key."""
    applied: int = 1
    """How often the target says that it applied it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenDeadLetter:
    """A message in the dead-letter queue."""

    file: str
    reason: str
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenTotal:
    """Control's own sum over the runs of one status and reason."""

    status: str
    reason: str
    runs: int
    tokens_in: int
    tokens_out: int
    cost_usd: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Everything that was seen once the demonstration had run."""

    runs: tuple[SeenRun, ...] = ()
    received: tuple[SeenInvoice, ...] = ()
    dead_letters: tuple[SeenDeadLetter, ...] = ()
    left_in_queue: tuple[str, ...] = ()
    """The ids of messages that are still in the queue."""
    totals: tuple[SeenTotal, ...] | None = None
    """None where others' runs are in them too."""
