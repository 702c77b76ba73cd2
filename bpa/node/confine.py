"""What a child does to itself before it reads one byte of its task.

`Confinement.enter` gives everything up in an order that matters:

1. the uid, when root started us (changing it clears PDEATHSIG, so that comes after);
2. PDEATHSIG, and then a look whether the parent is still the one that forked us;
3. a session of its own, and the file mode mask;
4. every descriptor but the one, to the end of the table;
5. rlimits: memory, processor time, no new descriptor, process, file or core;
6. no_new_privs, and not dumpable (no ptrace by a sibling of the same uid);
7. Landlock and then seccomp belong here, last, since they forbid the steps above.

Nothing here needs a privilege. libc is looked up before the fork, so that the child neither
opens a file nor imports a module.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass

from bpa.errors import BpaError

CHANNEL_FD = 3
"""The one descriptor a child keeps. Not 0, 1 or 2: a stray print must not reach the frames."""

NOBODY = 65534
_UID_UNCHANGED = 2**32 - 1  # what setresuid takes for "leave it as it is"
_CPU_S_MAX = 86_400.0

_PR_SET_PDEATHSIG = 1
_PR_GET_PDEATHSIG = 2
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_SYS_CLOSE_RANGE = 436  # the same number on every architecture
_LAST_FD = 0xFFFFFFFF


class ConfinementError(BpaError):
    """A step of the confinement failed; the process must end."""

    code = "confinement"


@dataclass(frozen=True, slots=True)
class ConfineLimits:
    """What the kernel holds a child to."""

    memory_bytes: int = 256 << 20
    """Address space beyond what the zygote had when it forked."""
    cpu_s: float = 30.0
    """Processor time; rounded up to whole seconds."""
    uid: int = NOBODY
    """User and group of the child when the node runs as root; otherwise it keeps the node's."""

    def __post_init__(self) -> None:
        if self.memory_bytes <= 0:
            raise ValueError("memory_bytes must be more than 0")
        if not 0 < self.cpu_s < _CPU_S_MAX:
            raise ValueError("cpu_s must be more than 0 and less than a day")
        if not 0 < self.uid < _UID_UNCHANGED:
            raise ValueError("uid must be an unprivileged user's")


class Libc:
    """The few calls that Python has no name for."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._prctl: Callable[..., int] = libc.prctl
        libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
        libc.prctl.restype = ctypes.c_int
        self._death_signal = ctypes.c_int()
        self._syscall: Callable[..., int] = libc.syscall
        libc.syscall.argtypes = [ctypes.c_long, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint]
        libc.syscall.restype = ctypes.c_long

    def prctl(self, option: int, value: int) -> None:
        """Set one attribute of the process.

        Raises:
            ConfinementError: The kernel refused.
        """
        if self._prctl(option, value, 0, 0, 0) != 0:
            raise ConfinementError(f"prctl({option}): {os.strerror(ctypes.get_errno())}")

    def attribute(self, option: int) -> int:
        """Return one attribute of the process; -1 where the kernel does not know it."""
        return self._prctl(option, 0, 0, 0, 0)

    def death_signal(self) -> int:
        """Return the signal that the process gets when its parent ends; 0 for none."""
        address = ctypes.addressof(self._death_signal)
        self.prctl(_PR_GET_PDEATHSIG, address)
        return self._death_signal.value

    def close_range(self, first: int, last: int) -> None:
        """Close descriptors ``first`` to ``last``, whichever of them are open.

        Raises:
            ConfinementError: The kernel refused (older than 5.9).
        """
        if self._syscall(_SYS_CLOSE_RANGE, first, last, 0) != 0:
            raise ConfinementError(f"close_range: {os.strerror(ctypes.get_errno())}")


def die_with_parent(libc: Libc, parent_pid: int) -> None:
    """Ask for SIGKILL when the parent ends, and end now if it already has.

    The kernel counts the parent *thread*: whoever forks does so from a thread that stays.

    Raises:
        ConfinementError: ``parent_pid`` is no longer the parent.
    """
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        raise ConfinementError("the parent is gone")


def hide_memory(libc: Libc) -> None:
    """Have the kernel refuse this process's memory to others of the same user, and to core files.

    A child has no descriptor to open /proc with, but process_vm_readv(2) and ptrace(2) need none:
    where the node is no root, children run as its user, and it holds the secrets.

    Raises:
        ConfinementError: The kernel refused.
    """
    libc.prctl(_PR_SET_DUMPABLE, 0)


class Confinement:
    """The steps of one zygote's children; built before the first fork."""

    def __init__(self, limits: ConfineLimits) -> None:
        self.libc = Libc()
        self._parent_pid = os.getpid()
        self._limits = limits
        self._drops_uid = os.geteuid() == 0
        address_space = _address_space_bytes() + limits.memory_bytes
        cpu_s = max(1, math.ceil(limits.cpu_s))
        self._rlimits: tuple[tuple[int, int], ...] = (
            (resource.RLIMIT_AS, address_space),
            (resource.RLIMIT_CPU, cpu_s),
            (resource.RLIMIT_NPROC, 0),
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NOFILE, 0),
        )

    def enter(self) -> None:
        """Confine the calling process, which keeps `CHANNEL_FD` alone.

        Raises:
            ConfinementError: A step was refused.
            OSError: Likewise.
        """
        if self._drops_uid:
            uid = self._limits.uid
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        die_with_parent(self.libc, self._parent_pid)
        os.setsid()
        os.umask(0o077)
        self.libc.close_range(0, CHANNEL_FD - 1)
        self.libc.close_range(CHANNEL_FD + 1, _LAST_FD)
        for kind, value in self._rlimits:
            resource.setrlimit(kind, (value, value))
        self.libc.prctl(_PR_SET_NO_NEW_PRIVS, 1)
        self.libc.prctl(_PR_SET_DUMPABLE, 0)


def _address_space_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        pages = int(statm.read().split()[0])
    return pages * resource.getpagesize()
