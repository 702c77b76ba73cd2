"""Who sends telemetry: the names by which a process is told from its like."""

from __future__ import annotations

import os
import socket

from bpa.config import Settings


def replica_of(settings: Settings) -> str:
    """Return a control replica's name."""
    return settings.control.replica_id or f"{socket.gethostname()}-{os.getpid()}"


def node_id_of(settings: Settings) -> str:
    """Return a node's name."""
    return settings.node.id or socket.gethostname()


def sender_of(settings: Settings, role: str) -> tuple[str, str]:
    """Return the conventions' ``service.name`` and ``service.instance.id`` of a process.

    Role ``all`` sends what the process counts and logs as a control replica, which it is; of its
    spans, those of the node are the node's.
    """
    if role == "node":
        return "bpa-node", node_id_of(settings)
    return "bpa-control", replica_of(settings)
