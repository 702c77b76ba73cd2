"""What a confined child finds to be in force: it tries, and asks the kernel about the rest.

Run in the first child of a zygote alone, which gets no task. What a container's runtime adds to
all its processes, such as a seccomp profile, is no protection of ours and is not counted.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import Callable

from bpa.domain.sandboxes import Protection
from bpa.node.confine import Libc

_PR_GET_DUMPABLE = 3
_PR_GET_NO_NEW_PRIVS = 39


def in_force(libc: Libc, node_uid: int) -> tuple[Protection, ...]:
    """Return the protections that hold the calling process, in the order in which they are known.

    Args:
        libc: Looked up before the process was confined.
        node_uid: The user that the node runs as.
    """
    found: dict[Protection, Callable[[], bool]] = {
        Protection.OWN_USER: lambda: node_uid not in os.getresuid(),
        Protection.OWN_SESSION: lambda: os.getsid(0) == os.getpid(),
        Protection.ENDS_WITH_NODE: lambda: libc.death_signal() == signal.SIGKILL,
        Protection.OPENS_NOTHING: lambda: _refused(_open) and _refused(_socket),
        Protection.STARTS_NOTHING: lambda: _refused(_fork),
        Protection.MEMORY_LIMIT: lambda: _is_bounded(resource.RLIMIT_AS),
        Protection.CPU_LIMIT: lambda: _is_bounded(resource.RLIMIT_CPU),
        Protection.NO_NEW_PRIVILEGES: lambda: libc.attribute(_PR_GET_NO_NEW_PRIVS) == 1,
        Protection.MEMORY_HIDDEN: lambda: libc.attribute(_PR_GET_DUMPABLE) == 0,
    }
    return tuple(protection for protection, holds in found.items() if holds())


def _refused(attempt: Callable[[], None]) -> bool:
    try:
        attempt()
    except OSError:
        return True
    return False


def _open() -> None:
    os.close(os.open("/", os.O_RDONLY))


def _socket() -> None:
    socket.socket(socket.AF_UNIX).close()


def _fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _is_bounded(kind: int) -> bool:
    return all(limit != resource.RLIM_INFINITY for limit in resource.getrlimit(kind))
