"""Credit: what may be received because the fleet has room for it, shared by all replicas (I9).

A message is in nobody's room between its receive and the first snapshot that counts its run. So
its reservation, made before the receive, turns into the record of when its run was inserted, and
whoever reserves subtracts the records that are later than the snapshot of the room it goes by.
Both times are Postgres's.

With Valkey away a replica reserves one message at a time. Nothing is placed then either, so the
few that come in fill the room, wait, and say why.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import structlog
from redis.asyncio import Redis

from bpa.domain.runs import DeploymentId
from bpa.errors import Unavailable
from bpa.scheduler.rooms import Room
from bpa.valkey import load_script

_RESERVE = load_script(__file__, "credit_reserve")
_RELEASE = load_script(__file__, "credit_release")

# A run is dated by the begin of its insert and seen from its commit on; a room counts it for sure
# if it is this much later. Costs a message's credit for that long after its receive, no more.
_COMMIT_US = 5_000
_RECORDS_KEPT_MS = 60_000

_log = structlog.stdlib.get_logger(__name__)


class Credit:
    """The reservations of all replicas.

    Args:
        client: The connection to Valkey.
        most: What one replica may have reserved per deployment: received and not yet inserted.
        ttl_s: How long reservations outlive a replica that died; above the longest receive.
    """

    def __init__(self, client: Redis, *, most: int = 16, ttl_s: float = 30.0) -> None:
        self._client = client
        self._most = most
        self._ttl_ms = round(ttl_s * 1000)

    async def reserve(self, dep_id: DeploymentId, room: Room, want: int, owner: str) -> int:
        """Reserve for up to ``want`` messages before receiving them; 0 if there is no room.

        Replaces what the owner had reserved for the deployment.
        """
        if room.runs < 1 or want < 1:
            return 0
        counted_until_us = _microseconds(room.as_of) - _COMMIT_US
        args: list[str | int] = [
            owner,
            min(want, self._most),
            room.runs,
            counted_until_us,
            self._ttl_ms,
        ]
        try:
            return int(await _RESERVE(self._client, keys=_keys(dep_id), args=args))
        except Unavailable as error:
            _log.warning("credit_unavailable", deployment_id=dep_id, error=str(error))
            return 1

    async def release(
        self, dep_id: DeploymentId, owner: str, recorded: Sequence[datetime] = ()
    ) -> None:
        """End the owner's reservations of a deployment, once its runs are in Postgres.

        With Valkey away the reservations end by themselves.

        Args:
            dep_id: The deployment.
            owner: Who reserved.
            recorded: The ``created_at`` of each run that came of them; none for a message that was
                not received or joined a run that is there already.
        """
        args: list[str | int] = [owner, _RECORDS_KEPT_MS, *map(_microseconds, recorded)]
        try:
            await _RELEASE(self._client, keys=_keys(dep_id), args=args)
        except Unavailable as error:
            _log.warning("credit_not_released", deployment_id=dep_id, error=str(error))


def _keys(dep_id: DeploymentId) -> list[str]:
    return [f"{{bpa:credit:{dep_id}}}:reserved", f"{{bpa:credit:{dep_id}}}:recorded"]


def _microseconds(at: datetime) -> int:
    return round(at.timestamp() * 1_000_000)
