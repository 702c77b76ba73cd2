r"""What an idempotency key means, and what was received under each. Pure.

A key's header is a structured-field string (RFC 8941, section 3.3.3), as the IETF draft
"The Idempotency-Key HTTP Header Field" has it: quoted, printable ASCII, with ``\`` before
a quote or a backslash.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from bpa.errors import InvalidRequest

MAX_KEY_CHARS = 255
_STRING = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')


def parse_key(header: str | None) -> str:
    """Return the key in an ``Idempotency-Key`` header.

    Raises:
        InvalidRequest: It is missing, not quoted, empty or too long.
    """
    if header is None:
        raise InvalidRequest('the header Idempotency-Key: "<key>" is required')
    found = _STRING.fullmatch(header.strip())
    if found is None:
        raise InvalidRequest("Idempotency-Key must be a quoted string of printable ASCII")
    key = re.sub(r"\\(.)", r"\1", found[1])
    if not 0 < len(key) <= MAX_KEY_CHARS:
        raise InvalidRequest(f"Idempotency-Key must have 1 to {MAX_KEY_CHARS} characters")
    return key


def digest_of(body: bytes) -> str:
    """Return the fingerprint of a body: its bytes, not its meaning."""
    return hashlib.sha256(body).hexdigest()


@dataclass(frozen=True, slots=True)
class Applied:
    """What was applied under a key, and the answer that every repeat gets."""

    key: str
    path: str
    body: bytes
    digest: str
    answer: dict[str, Any]
    at: str


@dataclass(slots=True)
class Tries:
    """Every request that came under one key, also the failed ones."""

    first_at: str
    last_at: str = ""
    count: int = 0
    by_outcome: Counter[str] = field(default_factory=Counter)
    bodies: set[str] = field(default_factory=set)


class Book:
    """Keys with what was applied under them and how often they were tried."""

    def __init__(self) -> None:
        self._applied: dict[str, Applied] = {}
        self._in_order: list[Applied] = []
        self._tries: dict[str, Tries] = {}
        self._in_flight: dict[str, str] = {}
        self._totals: Counter[str] = Counter()

    @property
    def applied_count(self) -> int:
        """How many invoices were applied."""
        return len(self._in_order)

    def tried(self, key: str, digest: str, now: str) -> None:
        """Count one request under ``key``."""
        tries = self._tries.get(key)
        if tries is None:
            tries = self._tries[key] = Tries(first_at=now)
        tries.count += 1
        tries.last_at = now
        tries.bodies.add(digest)

    def ended(self, key: str | None, outcome: str) -> None:
        """Count how a request ended, under its key if it had one."""
        self._totals[outcome] += 1
        if key is not None and key in self._tries:
            self._tries[key].by_outcome[outcome] += 1

    def begin(self, key: str, digest: str) -> str | None:
        """Take ``key`` for one request; return the digest that holds it if another one does."""
        holder = self._in_flight.get(key)
        if holder is None:
            self._in_flight[key] = digest
        return holder

    def end(self, key: str) -> None:
        """Give ``key`` back."""
        self._in_flight.pop(key, None)

    def known(self, key: str) -> Applied | None:
        """Return what was applied under ``key``."""
        return self._applied.get(key)

    def apply(self, applied: Applied) -> None:
        """Remember what was applied."""
        self._applied[applied.key] = applied
        self._in_order.append(applied)

    def restore(self, applied: Applied) -> None:
        """Remember what an earlier process applied; its tries count as one."""
        self.apply(applied)
        self.tried(applied.key, applied.digest, applied.at)

    def received(self, after: int, limit: int) -> list[Applied]:
        """Return what was applied after sequence number ``after``, in order."""
        return self._in_order[after : after + limit]

    def tries(self, key: str) -> Tries | None:
        """Return the tries under ``key``."""
        return self._tries.get(key)

    def keys(self, after: int, limit: int) -> list[tuple[str, Tries]]:
        """Return keys with their tries in the order of their first try."""
        return list(self._tries.items())[after : after + limit]

    def totals(self) -> dict[str, int]:
        """Return how many requests ended in which way since the start."""
        return dict(self._totals)

    @property
    def key_count(self) -> int:
        """How many different keys were tried."""
        return len(self._tries)

    @property
    def try_count(self) -> int:
        """How many requests came under a key."""
        return sum(tries.count for tries in self._tries.values())

    def clear(self) -> None:
        """Forget everything but what is in flight."""
        self._applied.clear()
        self._in_order.clear()
        self._tries.clear()
        self._totals.clear()
