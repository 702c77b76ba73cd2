"""Become a server that dies with the process that wanted it: a program, run by ``processes``.

``python -I -S launch.py PARENT SIGNAL IDENTITY PROGRAM ARGUMENT...`` takes on the identity, asks
the kernel for SIGNAL when the parent dies, makes sure that it has not died already, and executes
the program. It stands alone (standard library only) because a freshly executed interpreter has one
thread: a fork of ours may have many, where code between fork and exec can hang, and the kernel
lets nobody with threads into a new user namespace. It costs 15-25 ms a start.

IDENTITY is ``same``, ``namespace:UID:GID`` (a user namespace that shows us under these ids, for
programs that refuse root: files keep their owner) or ``user:UID:GID`` (another user altogether).
It comes first, because a change of identity makes the kernel forget the parent-death signal.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Never return: execute the program or leave with one line on stderr."""
    parent, death_signal, identity, *argv = arguments
    try:
        _take_identity(*identity.split(":"))
        _die_with_parent(int(parent), int(death_signal))
        # Python ignores these, and what is ignored stays so across exec.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.execv(argv[0], argv)  # noqa: S606 - replacing ourselves without a shell is the point
    except OSError as error:
        sys.exit(f"cannot start {argv[0]} ({identity}): {error}")


def _take_identity(kind: str, uid: str = "", gid: str = "") -> None:
    if kind == "namespace":
        own_uid, own_gid = os.geteuid(), os.getegid()
        _checked(_libc().unshare(_CLONE_NEWUSER), "unshare")
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{uid} {own_uid} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{gid} {own_gid} 1", encoding="ascii")
    elif kind == "user":
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))


def _die_with_parent(parent: int, death_signal: int) -> None:
    _checked(_libc().prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0), "prctl")
    if os.getppid() != parent:
        sys.exit("the parent is gone already")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


if __name__ == "__main__":
    main(sys.argv[1:])
