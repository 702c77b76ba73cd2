"""Ids, and how the status of a run may change."""

from __future__ import annotations

import hashlib
import uuid
from enum import StrEnum
from typing import NewType

RunId = NewType("RunId", str)
NodeId = NewType("NodeId", str)
AgentId = NewType("AgentId", str)
DeploymentId = NewType("DeploymentId", str)


class RunStatus(StrEnum):
    """Where a run is on its way."""

    QUEUED = "queued"
    OFFERED = "offered"
    RUNNING = "running"
    COMPLETED = "completed"
    DEAD_LETTERED = "dead_lettered"


TERMINAL = frozenset({RunStatus.COMPLETED, RunStatus.DEAD_LETTERED})

# from -> event -> to. The one place that says how a run may move; each UPDATE repeats its guard.
# docs/run-states.md shows it and says what each event is.
TRANSITIONS: dict[RunStatus, dict[str, RunStatus]] = {
    RunStatus.QUEUED: {
        "grant": RunStatus.OFFERED,
        "cancel": RunStatus.DEAD_LETTERED,
        "bury": RunStatus.DEAD_LETTERED,
    },
    RunStatus.OFFERED: {
        "acknowledge": RunStatus.RUNNING,
        "refuse": RunStatus.QUEUED,
        "take back": RunStatus.QUEUED,
        "lapse": RunStatus.QUEUED,
        "exhaust": RunStatus.DEAD_LETTERED,
        "cancel": RunStatus.DEAD_LETTERED,
        "bury": RunStatus.DEAD_LETTERED,
    },
    RunStatus.RUNNING: {
        "complete": RunStatus.COMPLETED,
        "fail": RunStatus.DEAD_LETTERED,
        "retry": RunStatus.QUEUED,
        "hand back": RunStatus.QUEUED,
        "park": RunStatus.QUEUED,
        "lapse": RunStatus.QUEUED,
        "exhaust": RunStatus.DEAD_LETTERED,
        "cancel": RunStatus.DEAD_LETTERED,
        "bury": RunStatus.DEAD_LETTERED,
    },
    RunStatus.COMPLETED: {},
    RunStatus.DEAD_LETTERED: {},
}


def run_id_of(namespace: str, queue: str, sequence_number: int, enqueued_ms: int) -> RunId:
    r"""Return the run's id, a pure function of its message.

    A UUIDv8 (RFC 9562): 48 bits of the enqueued time in ms, so that ids sort by arrival, then
    74 bits of SHA-256 over ``namespace\nqueue\nsequence\nms``. Names compare case-insensitively
    in Service Bus, so they are lowered first.
    """
    name = f"{namespace.lower()}\n{queue.lower()}\n{sequence_number}\n{enqueued_ms}"
    digest = hashlib.sha256(name.encode()).digest()
    raw = bytearray(enqueued_ms.to_bytes(6, "big") + digest[:10])
    raw[6] = raw[6] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    return RunId(str(uuid.UUID(bytes=bytes(raw))))


def effect_key_of(run_id: RunId, sequence_number: int) -> str:
    """Return the idempotency key of a run's first effect: ``<run_id>:<sequence number>``."""
    return f"{run_id}:{sequence_number}"


def further_key_of(effect_key: str, nth: int) -> str:
    """Return the key of a run's n-th effect, counted from 1: the first has the run's own (I4)."""
    return effect_key if nth == 1 else f"{effect_key}:{nth}"
