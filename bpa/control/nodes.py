"""Nodes: announced by themselves, alive by their heartbeats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import structlog

from bpa.control.batches import jsonb
from bpa.control.names import check_names
from bpa.domain.specs import NodeSpec
from bpa.errors import Conflict, InvalidRequest, NotFound
from bpa.postgres import Pool, fetch_all, fetch_one, load_queries

_QUERIES = load_queries(__file__)
_SLOTS_MAX = 10_000
_PROTECTIONS_MAX = 64
_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Registration:
    """What a node that registers is told of itself."""

    cordoned: bool
    draining: bool


class Nodes:
    """What nodes there are.

    Args:
        pool: Connections to Postgres.
        heartbeat_every_s: What nodes keep to; who missed two of them may be replaced.
    """

    def __init__(self, pool: Pool, heartbeat_every_s: float = 5.0) -> None:
        self._pool = pool
        self._silent_s = 2 * heartbeat_every_s

    async def register(self, spec: NodeSpec) -> Registration:
        """Announce a node; what an earlier boot of it holds ends when it expires.

        What an operator decided about the node holds for its new boot too.

        Raises:
            InvalidRequest: The node names no id, boot or slot, or a capacity that none has.
            Conflict: Another living process goes by this node's id.
        """
        _check(spec)
        row = await fetch_one(
            self._pool,
            _QUERIES.register,
            node_id=spec.node_id,
            boot_id=spec.boot_id,
            silent_s=self._silent_s,
            metadata=jsonb(
                {
                    "labels": spec.labels,
                    "version": spec.version,
                    "protections": spec.protections,
                }
            ),
            capacity=jsonb(
                {
                    "slots": spec.slots,
                    "cpu_millis": spec.cpu_millis,
                    "memory_bytes": spec.memory_bytes,
                }
            ),
        )
        if row is None:
            raise Conflict(
                f"another process is at work as node {spec.node_id!r}: give each its own node.id. "
                f"If that one has died, its place is free {self._silent_s:g} s after its last "
                "heartbeat at the latest; try again until then"
            )
        _log.info(
            "node_registered", node_id=spec.node_id, slots=spec.slots, labels=spec.labels, **row
        )
        return Registration(**row)

    async def gone(self, node_id: str) -> None:
        """Note that the process that was this node is no more, by the word of who knows."""
        await fetch_all(self._pool, _QUERIES.gone, node_id=node_id)

    async def page(self) -> list[dict[str, Any]]:
        """List nodes."""
        return await fetch_all(self._pool, _QUERIES.page, node_id=None)

    async def get(self, node_id: str) -> dict[str, Any]:
        """Return one node.

        Raises:
            NotFound: There is no such node.
        """
        row = await fetch_one(self._pool, _QUERIES.page, node_id=node_id)
        if row is None:
            raise NotFound(f"there is no node {node_id!r}")
        return row


def _check(spec: NodeSpec) -> None:
    check_names(nodeId=spec.node_id, bootId=spec.boot_id)
    for protection in spec.protections or ():
        check_names(protections=protection)
    problems = [
        f"{name}: {value} is not within {least} and {most}"
        for name, value, least, most in (
            ("slots", spec.slots, 1, _SLOTS_MAX),
            ("cpuMillis", spec.cpu_millis, 0, 2**31 - 1),
            ("memoryBytes", spec.memory_bytes, 0, 2**63 - 1),
        )
        if not least <= value <= most
    ]
    if len(spec.protections or ()) > _PROTECTIONS_MAX:
        problems.append(f"protections: more than {_PROTECTIONS_MAX} names")
    if problems:
        raise InvalidRequest("; ".join(problems), problems)
