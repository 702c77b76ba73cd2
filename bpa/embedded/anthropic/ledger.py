"""The stub's own account of what it was asked and what it answered."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import msgspec


class Entry(msgspec.Struct, frozen=True):
    """One request to the Messages API."""

    request_id: str
    endpoint: str
    model: str
    status: int
    """The status sent; 0 where there was no answer."""
    outcome: str
    """The stop reason, the error's type, ``counted``, ``dropped`` by us, or ``gone``: the client
    did not wait for the answer."""
    input_tokens: int
    output_tokens: int
    stream: bool
    invoice_id: str = ""
    """The document that it was about, as the stub read it; empty where it read none."""
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0


class Ledger:
    """The last entries and the totals of all; only the entries are bounded."""

    def __init__(self, keep: int) -> None:
        self._entries: deque[Entry] = deque(maxlen=keep)
        self._totals: Counter[str] = Counter()
        self._by_status: Counter[int] = Counter()
        self._by_outcome: Counter[str] = Counter()

    def record(self, entry: Entry) -> None:
        """Count one request."""
        self._entries.append(entry)
        self._totals["requests"] += 1
        self._totals["input_tokens"] += entry.input_tokens
        self._totals["output_tokens"] += entry.output_tokens
        self._totals["cache_read_tokens"] += entry.cache_read_tokens
        self._totals["cache_write_tokens"] += entry.cache_write_tokens
        self._by_status[entry.status] += 1
        self._by_outcome[entry.outcome] += 1

    def clear(self) -> None:
        """Forget everything."""
        for held in (self._entries, self._totals, self._by_status, self._by_outcome):
            held.clear()

    def totals(self) -> dict[str, Any]:
        """Return exact totals since the start or the last clear."""
        return {
            "requests": self._totals["requests"],
            "input_tokens": self._totals["input_tokens"],
            "output_tokens": self._totals["output_tokens"],
            "cache_read_tokens": self._totals["cache_read_tokens"],
            "cache_write_tokens": self._totals["cache_write_tokens"],
            "by_status": {str(status): count for status, count in self._by_status.items()},
            "by_outcome": dict(self._by_outcome),
        }

    def entries(self) -> list[dict[str, Any]]:
        """Return the last entries, oldest first."""
        return [msgspec.to_builtins(entry) for entry in self._entries]
