"""Slot holds in Valkey: who may start right now. A hint; Postgres has the last word.

A hold says that a run takes one slot of a node and one place of its deployment. It is taken before
the grant, prolonged while the lease lives, given back when the run ends, and otherwise expires: a
replica that dies between taking and granting blocks its slots for one time to live and no longer.
Its expiry never ends a lease.

Holds belong to a generation, which Postgres keeps. Where Valkey has another one or none (flushed,
restarted empty, restored from an old file) nothing can be taken until the holds were rebuilt. They
live under keys with the generation in their names, so that those of an old one simply expire.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec
from redis.asyncio import Redis

from bpa.domain.runs import DeploymentId, NodeId, RunId
from bpa.valkey import load_script

# One hash slot for all of it; the scripts derive every key from this one.
_GENERATION_KEY = "{bpa:holds}"
_CHUNK = 500  # holds prolonged by one script: it blocks the server for a millisecond or so
_RELEASES_KEPT = 10_000  # what comes on top expires by itself

_CHANGE = load_script(__file__, "holds_change")
_REFRESH = load_script(__file__, "holds_refresh")
_REBUILD = load_script(__file__, "holds_rebuild")


class Hold(NamedTuple):
    """One run's claim on a slot of a node and on a place of its deployment."""

    run_id: RunId
    node_id: NodeId
    dep_id: DeploymentId


class Verdict(StrEnum):
    """What Valkey says to one hold."""

    TAKEN = "taken"
    NODE = "node"
    """The node is full."""
    DEPLOYMENT = "deployment"
    """The deployment is at its limit."""
    HELD = "held"
    """The run holds this very place: another replica is about to grant it."""


class OtherGeneration(Exception):
    """Valkey has the holds of another generation, or none; rebuild them."""

    def __init__(self, present: str) -> None:
        super().__init__(f"holds of generation {present or 'none'} are there")
        self.present = int(present) if present.isdecimal() else 0


class Holds:
    """The holds of all replicas.

    Args:
        client: The connection to Valkey.
        ttl_s: How long a hold lasts without being prolonged.
    """

    def __init__(self, client: Redis, *, ttl_s: float = 15.0) -> None:
        self.ttl_s = ttl_s
        self._client = client
        self._ttl_ms = round(ttl_s * 1000)
        self._released: list[Hold] = []

    def release(self, holds: Iterable[Hold]) -> None:
        """Give holds back with the next change; cheap, and it cannot fail."""
        self._released.extend(holds)
        del self._released[:-_RELEASES_KEPT]

    async def change(
        self,
        generation: int,
        take: Sequence[Hold] = (),
        slots: Mapping[NodeId, int] | None = None,
        limits: Mapping[DeploymentId, int] | None = None,
    ) -> list[Verdict]:
        """Give back what was released and take new holds, in one script.

        Args:
            generation: The hold generation that Postgres has.
            take: The holds wanted.
            slots: The capacity of each node in ``take``.
            limits: The run limit of each deployment in ``take``.

        Returns:
            A verdict for each of ``take``.

        Raises:
            OtherGeneration: Nothing was taken; rebuild first.
            Unavailable: Valkey is away. What was to be given back expires by itself.
        """
        released, self._released = self._released, []
        if not released and not take:
            return []
        batch = {"release": released, "take": take, "slots": slots or {}, "limits": limits or {}}
        present, *verdicts = await _CHANGE(
            self._client,
            keys=[_GENERATION_KEY],
            args=[generation, self._ttl_ms, msgspec.json.encode(batch)],
        )
        if present != str(generation):
            raise OtherGeneration(present)
        return [Verdict(verdict) for verdict in verdicts]

    async def refresh(self, generation: int, holds: Sequence[Hold]) -> None:
        """Prolong the holds of runs with a lease.

        Raises:
            OtherGeneration: Rebuild first.
            Unavailable: Valkey is away.
        """
        for start in range(0, max(len(holds), 1), _CHUNK):
            present = await _REFRESH(
                self._client,
                keys=[_GENERATION_KEY],
                args=[generation, self._ttl_ms, msgspec.json.encode(holds[start : start + _CHUNK])],
            )
            if present != str(generation):
                raise OtherGeneration(present)

    async def rebuild(self, generation: int, holds: Sequence[Hold]) -> bool:
        """Write the holds of a new generation; false if a later one is there already.

        Raises:
            Unavailable: Valkey is away.
        """
        written = await _REBUILD(
            self._client,
            keys=[_GENERATION_KEY],
            args=[generation, self._ttl_ms, msgspec.json.encode(holds)],
        )
        return bool(written)
