"""What the tests let run in a sandbox instead of the agent; the task's document names the probe."""

import ctypes
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from bpa.node import agent, confine
from bpa.node.channel import Channel
from bpa.node.confine import CHANNEL_FD
from bpa.node.frames import Done, Log

RLIMITS = ("RLIMIT_CPU", "RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_FSIZE", "RLIMIT_CORE")
_PR_GET_PDEATHSIG, _PR_GET_DUMPABLE, _PR_GET_NO_NEW_PRIVS = 2, 3, 39


def prepare() -> Callable[[Channel], None]:
    """Return a child's work: the probe that its document names."""
    libc = ctypes.CDLL(None)
    frozen_pid = os.getpid()

    def work(channel: Channel) -> None:
        document = channel.task().document
        if document == "report":
            channel.send(Log("info", "report", report(libc, frozen_pid)))
        else:
            PROBES[document](channel)
        channel.send(Done(document))

    return work


def prepare_beside_the_agent() -> Callable[[Channel], None]:
    """Load what the agent loads, and return the probes."""
    agent.prepare()
    return prepare()


def prepare_where_limits_are_refused() -> Callable[[Channel], None]:
    """Stand for a machine on which one step of the confinement is not allowed."""

    def refuse(_kind: int, _limits: tuple[int, int]) -> None:
        raise PermissionError("limits are refused here")

    resource.setrlimit = refuse
    return prepare()


def prepare_without_limits() -> Callable[[Channel], None]:
    """Leave the kernel's limits out of the confinement, which then knows nothing of it."""
    resource.setrlimit = lambda _kind, _limits: None
    return prepare()


def prepare_without_attributes() -> Callable[[Channel], None]:
    """Leave out what a process asks of the kernel for itself."""
    sets = confine.Libc.prctl

    def skip(libc: confine.Libc, option: int, value: int) -> None:
        if option == _PR_GET_PDEATHSIG:
            sets(libc, option, value)

    confine.Libc.prctl = skip  # type: ignore[method-assign]
    return prepare()


def prepare_without_session_and_user() -> Callable[[Channel], None]:
    """Leave a child in the zygote's session, and under the node's user."""
    os.setsid = lambda: None
    os.setresuid = os.setresgid = lambda _real, _effective, _saved: None
    return prepare()


def broken_preparation() -> Callable[[Channel], None]:
    """Fail in the zygote."""
    raise RuntimeError("this zygote cannot start")


def report(libc: ctypes.CDLL, zygote_pid: int) -> dict[str, Any]:
    death_signal = ctypes.c_int()
    libc.prctl(_PR_GET_PDEATHSIG, ctypes.byref(death_signal), 0, 0, 0)
    mask = os.umask(0o077)
    return {
        "environ": dict(os.environ),
        "pid": os.getpid(),
        "is_child_of_zygote": os.getppid() == zygote_pid,
        "uids": list(os.getresuid()),
        "gids": [*os.getresgid(), *os.getgroups()],
        "leads_session": os.getsid(0) == os.getpid(),
        "descriptors": [fd for fd in range(4096) if is_open(fd)],
        "umask": mask,
        "pdeathsig": death_signal.value,
        "dumpable": libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0),
        "no_new_privs": libc.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0),
        "rlimits": {name: list(resource.getrlimit(getattr(resource, name))) for name in RLIMITS},
        "refused": {name: refusal(attempt) for name, attempt in ATTEMPTS.items()},
        "modules": sorted(sys.modules),
    }


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def refusal(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return type(error).__name__
    return "allowed"


def fork() -> None:
    if os.fork() == 0:
        os._exit(0)


ATTEMPTS: dict[str, Callable[[], object]] = {
    "open": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "socket": socket.socket,
    "dup": lambda: os.dup(CHANNEL_FD),
    "fork": fork,
    "kill_parent": lambda: os.kill(os.getppid(), 0),
}


def hog(_channel: Channel) -> None:
    kept = []
    while True:
        kept.append(bytearray(1 << 20))


def spin(_channel: Channel) -> None:
    while True:
        pass


def flood(channel: Channel) -> None:
    while True:
        channel.send(Log("info", "flood", {}))


def wait(channel: Channel) -> None:
    channel.call("model", {})


def hang_up(_channel: Channel) -> None:
    os.close(CHANNEL_FD)
    while True:
        signal.pause()


def write(data: bytes) -> Callable[[Channel], None]:
    return lambda _channel: socket.socket(fileno=CHANNEL_FD).sendall(data)


def crash(_channel: Channel) -> None:
    ctypes.string_at(0)


PROBES: dict[str, Callable[[Channel], None]] = {
    "crash": crash,
    "flood": flood,
    "garbage": write(b"\x00\x00\x00\x05hello"),
    "hang_up": hang_up,
    "hog": hog,
    "oversized": write(b"\xff\xff\xff\xff"),
    "cut": write(b"\x00\x00\x00\x05h"),
    "quit": lambda _channel: sys.exit(3),
    "spin": spin,
    "wait": wait,
}
