"""The zygote: a small single-threaded interpreter that forks one child per run.

It starts with an empty environment and holds nothing but the agent framework, so a child inherits
nothing worth reading. It obeys one socket (datagrams, so that each order is one packet):

    node -> zygote   ``Start`` once; then ``Fork`` with the child's end of a fresh socketpair
    zygote -> node   ``Started``; ``Forked`` with a pidfd, so that no kill can hit a recycled pid;
                     ``Exited`` with what the child used

It ends when the socket does, and the kernel ends it with the node.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
from typing import Any, cast

import msgspec

from bpa.node.channel import Channel
from bpa.node.confine import (
    CHANNEL_FD,
    ConfineLimits,
    Confinement,
    ConfinementError,
    Libc,
    die_with_parent,
)
from bpa.node.frames import Failed, FrameLimits, Ready
from bpa.node.protections import in_force

PACKET_BYTES_MAX = 65_536
EXIT_CONFINEMENT = 71
EXIT_CRASH = 70


class _Packet(msgspec.Struct, frozen=True, tag_field="t"):
    """The root of the packets between node and zygote."""


class Start(_Packet, frozen=True, tag="start"):
    """What the zygote has to know; ``entry`` names ``module:function``, see `Zygote`."""

    parent_pid: int
    entry: str
    confine: ConfineLimits
    frames: FrameLimits


class Fork(_Packet, frozen=True, tag="fork"):
    """Fork a child that keeps the descriptor sent along."""

    looks: bool = False
    """Whether it is to say what confines it."""


class Started(_Packet, frozen=True, tag="started"):
    """The framework is loaded and rehearsed; forks may come."""


class Forked(_Packet, frozen=True, tag="forked"):
    """Answers the oldest unanswered `Fork`; the child's pidfd is sent along."""

    pid: int


class NotForked(_Packet, frozen=True, tag="not_forked"):
    """Answers the oldest unanswered `Fork`: the kernel has no process to spare."""

    error: str


class Exited(_Packet, frozen=True, tag="exited"):
    """A child ended; ``status`` as wait(2) gives it."""

    pid: int
    status: int
    cpu_s: float
    rss_bytes_max: int


FromNode = Start | Fork
FromZygote = Started | Forked | NotForked | Exited

_ORDERS = msgspec.msgpack.Decoder(FromNode)


def main(control_fd: int) -> None:
    """Serve forks over ``control_fd`` until the node closes it."""
    os.setsid()  # what a terminal sends to the node's group is not for us
    sys.stdin = sys.stdout = cast("Any", None)
    control = socket.socket(fileno=control_fd)
    start = _ORDERS.decode(control.recv(PACKET_BYTES_MAX))
    if not isinstance(start, Start):
        raise TypeError("the first packet is not a start")
    die_with_parent(Libc(), start.parent_pid)
    module, _, function = start.entry.partition(":")
    work = getattr(importlib.import_module(module), function)()
    zygote = _Zygote(control, work, start)
    gc.collect()
    gc.disable()
    gc.freeze()  # a collection in a child would write to every page it looks at
    control.send(msgspec.msgpack.encode(Started()))
    with contextlib.suppress(ConnectionError):  # the node closed with a report still unread
        zygote.serve()


class _Zygote:
    """The loop that forks and reaps."""

    def __init__(self, control: socket.socket, work: Any, start: Start) -> None:
        self._control = control
        self._work = work
        self._frames = start.frames
        self._confinement = Confinement(start.confine)
        self._node_uid = os.getuid()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)

    def serve(self) -> None:
        """Fork on order and report what ended, until the control socket ends."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self._wake_read in ready:
                os.read(self._wake_read, 512)
                self._reap()
            if self._control.fileno() in ready and not self._obey():
                return

    def _obey(self) -> bool:
        packet, fds, _flags, _address = socket.recv_fds(self._control, PACKET_BYTES_MAX, 1)
        if not packet:
            return False
        if not fds:  # the kernel drops what a process has no room for
            self._refuse("the zygote has no descriptor for the child's socket")
            return True
        (channel_fd,) = fds
        try:
            order = _ORDERS.decode(packet)
            pid = os.fork()
        except OSError as error:
            os.close(channel_fd)
            self._refuse(str(error))
            return True
        if pid == 0:
            os._exit(self._child(channel_fd, looks=isinstance(order, Fork) and order.looks))
        os.close(channel_fd)
        pidfd = os.pidfd_open(pid)
        socket.send_fds(self._control, [msgspec.msgpack.encode(Forked(pid))], [pidfd])
        os.close(pidfd)
        return True

    def _refuse(self, why: str) -> None:
        self._control.send(msgspec.msgpack.encode(NotForked(why)))

    def _child(self, channel_fd: int, *, looks: bool) -> int:
        """Live the child's whole life and return its exit code."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            sys.stderr = cast("Any", None)
            if channel_fd != CHANNEL_FD:
                os.dup2(channel_fd, CHANNEL_FD)
            channel = Channel(socket.socket(fileno=CHANNEL_FD), self._frames)
            try:
                self._confinement.enter()
            except (ConfinementError, OSError, ValueError) as error:
                channel.send(Failed(f"{type(error).__name__}: {error}"))
                return EXIT_CONFINEMENT
            seen = in_force(self._confinement.libc, self._node_uid) if looks else ()
            channel.send(Ready(seen))
            self._work(channel)
        except BaseException:  # noqa: BLE001 - the exit code is all that a broken child may say
            return EXIT_CRASH
        return 0

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            report = Exited(
                pid=pid,
                status=status,
                cpu_s=usage.ru_utime + usage.ru_stime,
                rss_bytes_max=usage.ru_maxrss * 1024,
            )
            self._control.send(msgspec.msgpack.encode(report))
